"""The registered model as MLflow serves it: uint8 images of one size in, (N, H, W, 3), the restored ones out.

MLflow keeps this file and the `kgt` package beside the weights ("models from code"), so a version needs no checkout.
`demosaic` takes (N, H, W), raw RGGB mosaics.
"""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch

from kgt.restore import restore
from kgt.weights import load_weights


class RestorationModel(mlflow.pyfunc.PythonModel):
    """`predict` restores a batch of images of any size, large ones in tiles."""

    def load_context(self, context: Any) -> None:
        """Load the weights, on the GPU where there is one."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model, metadata = load_weights(Path(context.artifacts["weights"]), device=device)
        self.task = metadata["task"]

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        """The restored images, uint8."""
        return np.stack([restore(self.model, image, task=self.task) for image in np.asarray(model_input)])


mlflow.models.set_model(RestorationModel())
