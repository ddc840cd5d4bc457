"""The training step of benchmarks/training.py in PyTorch: its peer there."""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F

from delf_jax.models.resnet import LAYOUTS, UNITS

_EPSILON, _MOMENTUM = (LAYOUTS["keras"][name] for name in ("epsilon", "momentum"))


class TorchStep:
    """ResNet-50 DELG in Keras' layout, channels last; `step()` gives loss and norm."""

    def __init__(
        self,
        params: Mapping[str, np.ndarray],
        stats: Mapping[str, np.ndarray],
        batch: Mapping[str, np.ndarray],
        numbers: Mapping[str, float],
        device: str = "cpu",
        precision: str | None = None,
    ):
        self.numbers, self.device = numbers, device
        self.precision = getattr(torch, precision) if precision else None
        self.params = {n: self._tensor(x).requires_grad_() for n, x in params.items()}
        self.stats = {n: self._tensor(x) for n, x in stats.items()}
        images = torch.tensor(batch["image"][:, 0]).permute(0, 3, 1, 2)
        self.images = images.to(device, memory_format=torch.channels_last)
        self.labels = torch.tensor(batch["label"], dtype=torch.long, device=device)
        self.optimizer = torch.optim.SGD(
            self.params.values(), lr=numbers["rate"], momentum=numbers["momentum"]
        )
        self.losses = torch.compile(self._losses) if device != "cpu" else self._losses

    def _tensor(self, x: np.ndarray) -> torch.Tensor:
        """Kernels as PyTorch has them: OIHW."""
        tensor = torch.tensor(np.asarray(x), device=self.device)
        if tensor.ndim < 4:
            return tensor
        tensor = tensor.permute(3, 2, 0, 1)
        return tensor.contiguous(memory_format=torch.channels_last)

    def _convolve(self, x, scope: str, stride: int = 1, padding: int = 0):
        bias = self.params.get(f"{scope}/bias")
        x = F.conv2d(x, self.params[f"{scope}/kernel"], bias, stride, padding)
        if f"{scope}/scale" not in self.params:
            return x
        return F.batch_norm(
            x,
            *(self.stats[f"{scope}/{name}"] for name in ("mean", "var")),
            *(self.params[f"{scope}/{name}"] for name in ("scale", "offset")),
            training=True,
            momentum=1 - _MOMENTUM,
            eps=_EPSILON,
        )

    def _block(self, x, block: int):
        for number in range(UNITS[50][block - 1]):
            scope = f"backbone/block{block}_unit{number + 1}"
            stride = 2 if block > 1 and number == 0 else 1
            y = F.relu(self._convolve(x, f"{scope}/conv1", stride))
            y = F.relu(self._convolve(y, f"{scope}/conv2", padding=1))
            y = self._convolve(y, f"{scope}/conv3")
            if number == 0:
                x = self._convolve(x, f"{scope}/shortcut", stride)
            x = F.relu(x + y)
        return x

    def _dense(self, x, scope: str):
        return x @ self.params[f"{scope}/kernel"] + self.params[f"{scope}/bias"]

    def _losses(self, images):
        # TensorFlow's SAME pads odd sides alike in front and behind, as here.
        x = (images.to(self.precision or torch.float32) - 128) / 128
        x = F.relu(self._convolve(x, "backbone/conv1", 2, padding=3))
        x = F.max_pool2d(x, 3, 2)
        for block in (1, 2, 3):
            x = self._block(x, block)
        block3, block4 = x.detach(), self._block(x, 4).float()
        pooled = (block4.clamp(min=1e-6) ** 3).mean((2, 3)) ** (1 / 3)
        descriptor = F.normalize(self._dense(pooled, "whitening"), dim=1)
        centres = F.normalize(self.params["classifier/kernel"], dim=0)
        cosines = (descriptor @ centres).clamp(-1 + 1e-7, 1 - 1e-7)
        own = F.one_hot(self.labels, cosines.shape[1])
        moved = torch.cos(torch.acos(cosines) + self.numbers["margin"])
        logits = self.numbers["scale"] * (own * moved + (1 - own) * cosines)
        y = F.relu(self._convolve(block3, "local/attention/conv1"))
        attention = F.softplus(self._convolve(y, "local/attention/conv2"))
        reduced = self._convolve(block3, "local/autoencoder/reduce")
        expanded = F.relu(self._convolve(reduced, "local/autoencoder/expand"))
        attended = (F.normalize(expanded, dim=1) * attention).mean((2, 3))
        scores = self._dense(attended.float(), "local/attention_classifier")
        return (
            F.cross_entropy(logits, self.labels)
            + F.cross_entropy(scores, self.labels)
            + 10 * F.mse_loss(expanded.float(), block3.float())
        )

    def step(self) -> tuple[float, float]:
        """One step; waits for its end."""
        self.optimizer.zero_grad(set_to_none=True)
        kind = self.device.split(":")[0]
        with torch.autocast(kind, self.precision, enabled=self.precision is not None):
            loss = self.losses(self.images)
        loss.backward()
        parameters = list(self.params.values())
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.numbers["clip"])
        self.optimizer.step()
        return float(loss.detach()), float(norm)
