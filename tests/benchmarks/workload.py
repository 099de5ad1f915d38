"""What is measured: one model, one file of pairs, one setting, the same for every trainer.

Nothing here imports torch: the process that starts the others stays small, because a child's peak memory begins at what
its parent held when it was started.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

MODES = ("lora", "full", "qlora")
PRECISIONS = ("bf16", "fp32")


@dataclass(frozen=True)
class Workload:
    """Pairs in file order, a constant learning rate, nothing saved on the way, no evaluation."""

    model: str
    """A folder or a hub name."""
    data: str
    """A jsonl file with ``prompt``, ``chosen`` and ``rejected``, each a list of messages."""
    pairs: int
    pairs_per_step: int
    mode: str = "lora"
    """"lora": rank 16, alpha 32, on all linear layers; "qlora": the same on 4-bit weights; "full": all weights."""
    precision: str = "bf16"
    """"bf16" is bfloat16 autocast; "fp32" none."""
    epochs: int = 1
    max_length: int = 1024
    lr: float = 1e-6
    beta: float = 0.1
    rank: int = 16
    alpha: int = 32
    seed: int = 42
    full_weights: str = "float32"
    """What weights are held in where all are trained: bfloat16 loses small updates, float32 takes twice the memory."""
    loss: dict[str, Any] | None = None
    """dpotrain's ``[loss]``; sigmoid DPO with ``beta`` unless set."""
    trl_loss: dict[str, Any] | None = None
    """The same as keys of TRL's DPOConfig."""

    @property
    def weights(self) -> str:
        """What the model's own weights are held in."""
        if self.mode == "full":
            return self.full_weights
        return "float32" if self.precision == "fp32" else "bfloat16"

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.pairs // self.pairs_per_step)

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def recipe(self, output_dir: Path) -> dict[str, Any]:
        """Return dpotrain's recipe."""
        document: dict[str, Any] = {
            "seed": self.seed,
            "run": {"output_dir": str(output_dir)},
            "model": {"use": "transformers", "name": self.model, "dtype": self.weights},
            "data": {
                "use": "hf-datasets", "name": self.data, "shuffle": False, "limit": self.pairs,
                "max_length": self.max_length,
            },
            "loss": self.loss or {"use": "dpo", "beta": self.beta},
            "training": {
                "epochs": self.epochs,
                "pairs_per_step": self.pairs_per_step,
                "precision": self.precision,
            },
            "optimizer": {"lr": self.lr},
            "schedule": {"use": "constant"},
            "checkpoints": {"every": False},
        }  # fmt: skip
        if self.mode != "full":
            document["adapter"] = {"use": "lora", "rank": self.rank, "alpha": self.alpha}
        if self.mode == "qlora":
            document["quantizer"] = {"use": "bnb-4bit"}
        return document

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        return cls(**json.loads(path.read_text(encoding="utf-8")))
