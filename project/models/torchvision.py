"""Any classification model of torchvision, by its name."""

from torch import Tensor, nn


class TorchvisionModel(nn.Module):
    """A torchvision model with fresh weights; grey images are repeated into its three channels.

    Args:
        num_classes: Number of logits.
        in_channels: Channels of the images, 1 or 3.
        image_size: Side of the images in pixels; torchvision's layers decide which sizes they take.
        name: A name of `torchvision.models`, such as `resnet18`.
        dropout: Probability in [0, 1) for the model's own dropout layers; null keeps the model's.

    Raises:
        ValueError: torchvision has no such model, or the images have neither 1 nor 3 channels.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: int,
        name: str = "resnet18",
        dropout: float | None = None,
    ) -> None:
        super().__init__()
        if name not in classification_models():
            raise ValueError(f"got model {name!r}; torchvision has {', '.join(classification_models())}")
        if in_channels not in (1, 3):
            raise ValueError(f"got images of {in_channels} channels; torchvision's models take 1 or 3")
        from torchvision.models import get_model  # It takes seconds to import, and other nets do not need it.

        self.net = get_model(name, num_classes=num_classes, **_quiet_options(name))
        for module in self.net.modules():
            if dropout is not None and isinstance(module, nn.Dropout):
                module.p = dropout

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 1 or 3, H, W), normalised float, to logits (N, num_classes)."""
        logits: Tensor = self.net(images.expand(-1, 3, -1, -1))
        return logits


def classification_models() -> list[str]:
    """List the names of torchvision's classification models."""
    from torchvision import models

    return list(models.list_models(module=models))


def _quiet_options(name: str) -> dict[str, bool]:
    # These two have a second output in training, and warn that their slow initialisation will change.
    return {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
