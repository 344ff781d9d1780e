"""Datasets: each one is a subclass of `LabelledImages` that loads its images."""

from project.data.cifar10 import CIFAR10
from project.data.digits import Digits
from project.data.image_folder import ImageFolder
from project.data.labelled import LabelledImages
from project.data.mnist import MNIST, FashionMNIST

__all__ = ["CIFAR10", "MNIST", "Digits", "FashionMNIST", "ImageFolder", "LabelledImages"]
