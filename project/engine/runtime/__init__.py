"""The processes of a run: their devices, how they find each other, and what happens when one of them dies."""
