"""`tasks.<name>.train` in params.yaml: how one model is fitted."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from pipelines.settings import Settings
from pipelines.variant_params import Export, Variants


class Loop(Settings):
    """What the one PyTorch loop reads, whatever the network: its settings inherit these."""

    epochs: PositiveInt = 4
    """Passes over the train rows; more learn the days of train by heart."""
    patience: PositiveInt = 2
    """Epochs that may pass without a better validation score before training stops."""
    batch: PositiveInt = 1024
    """Rows of one step, on each of the processes that train together."""
    accumulate: PositiveInt = 1
    """Parts that a batch is computed in, one after the other: the same step in less memory, but for
    BatchNorm, which sees a part at a time."""
    learning_rate: PositiveFloat = 3e-3
    """AdamW's rate where the schedule is at its highest."""
    schedule: Literal["one_cycle", "cosine", "step", "plateau", "constant"] = "one_cycle"
    """How the rate goes on after `warmup`. one_cycle and cosine fall to 0 by half a cosine, and
    one_cycle moves AdamW's momentum against the rate; step falls by `decay` every `decay_epochs`,
    plateau after as many without a lower validation loss."""
    warmup: float = Field(default=0.2, ge=0, lt=1)
    """Share of all steps in which the rate rises to its highest."""
    decay: float = Field(default=0.1, gt=0, lt=1)
    decay_epochs: PositiveInt = 1
    weight_decay: float = Field(default=1e-2, ge=0)
    """Of matrices and kernels; biases and norms do not decay."""
    clip: float = Field(default=1.0, ge=0)
    """Longest gradient, as one vector; a longer one is shortened to this. 0 clips nothing."""
    average: float = Field(default=0.0, ge=0, lt=1)
    """What a step leaves of the running mean of weights that is judged and kept in place of the
    last weights (Polyak and Juditsky 1992, doi:10.1137/0330046); .999 looks back a thousand steps,
    0 keeps no mean."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each label that is spread over all classes alike."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: each class weighs as much as any other in the loss, however few its rows. Scores
    are then no longer rates of the label."""


class Network(Loop):
    """The PyTorch network: `tasks.<name>.train.network`. What was tried: docs/log.md."""

    initial: Literal["default", "kaiming", "xavier", "orthogonal"] = "default"
    """First weights of its layers; default is PyTorch's own: uniform, by the number of inputs."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    width: PositiveInt = 128
    """Units of a hidden layer."""
    depth: PositiveInt = 2
    """Hidden layers."""
    embedding: PositiveInt = 8
    """Largest number of values that stand for one category."""
    bins: PositiveInt = 24
    """Quantile bins of each number's piecewise-linear encoding."""
    day_effect: float = Field(default=0.1, ge=0)
    """Standard deviation of the effect each day of train may have of its own; 0 leaves it out."""


Initial = Literal["kaiming", "xavier", "orthogonal"]


class PictureLoop(Loop):
    """The loop with networks that have BatchNorm, which takes a deviation of each part of a batch: so a
    batch, and each of its parts, has two pictures at least."""

    batch: int = Field(default=1024, ge=2)


class Cnn(PictureLoop):
    """The small network for pictures: `tasks.<name>.train.cnn`. Accuracies: docs/log.md."""

    channels: tuple[PositiveInt, ...] = Field(default=(32, 64, 128), min_length=1)
    """Of each stage; a stage halves the picture."""
    convolutions: PositiveInt = 2
    """Of each stage but the first, which has one."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the embedding left out while learning."""
    initial: Initial = "kaiming"
    """How first weights are drawn."""


class Resnet(PictureLoop):
    """Residual networks for pictures: `tasks.<name>.train.resnet`."""

    depth: Literal[10, 18, 34] = 10
    """Layers with weights; 18 and 34 have torchvision's layers and names, so its weights fit."""
    width: PositiveFloat = 0.5
    """Times 64, 128, 256 and 512 channels."""
    stem: Literal["small", "large"] = "small"
    """small keeps every pixel, for pictures of up to about 64 a side; large looks at a quarter a
    side, as for ImageNet."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    initial: Initial = "kaiming"


class Augment(Settings):
    """How train pictures are changed at random: `tasks.<name>.train.augment`. 0 and false are off."""

    shift: NonNegativeInt = 0
    """Most pixels moved, up or down and left or right."""
    flip: bool = False
    """Mirror half of them, left to right."""
    crop: float = Field(default=0.0, ge=0, lt=1)
    """Largest share of the area cut away before what is left is scaled back."""
    rotation: float = Field(default=0.0, ge=0, le=180)
    """Most degrees turned, either way."""
    cutout: NonNegativeInt = 0
    """Side in pixels of a square set to the mean colour (DeVries and Taylor 2017,
    arXiv:1708.04552)."""


class Backbone(Settings):
    """Layers that have learned before: `tasks.<name>.train.backbone`."""

    weights: str = ""
    """Where they are, from the project's folder: an artifact's folder, or a .onnx, .pt, .pth or
    .safetensors file. Empty: none."""
    unfreeze: NonNegativeInt | None = 0
    """Epoch from which they learn on; 0 is from the start, null never."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """What the learning rate is multiplied by at each step from the head down to the pixels
    (Howard and Ruder 2018, arXiv:1801.06146)."""


class Boosting(Settings):
    """scikit-learn's HistGradientBoosting: `tasks.<name>.train.boosting`."""

    iterations: PositiveInt = 200
    learning_rate: PositiveFloat = 0.05
    min_leaf: PositiveInt = 100
    """Fewest rows of a leaf."""


class Forest(Settings):
    """scikit-learn's random forest: `tasks.<name>.train.forest`."""

    trees: PositiveInt = 100
    min_leaf: PositiveInt = 50


class Machine(Settings):
    """What is about the machine that trains and not about the model."""

    threads: PositiveInt = 1
    """Threads of one training. More than the cores that are free is many times slower, not faster:
    with one other busy process, two threads took 10 to 25 times as long as one."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto: the first that is there of cuda, mps, cpu. Networks only."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of a step's arithmetic; weights stay fp32. auto: bf16 where the GPU computes in it (NVIDIA
    from Ampere on), fp16 on older ones, fp32 elsewhere. fp32 rules TF32 out too."""
    compile: Literal["auto", "always", "never"] = "auto"
    """torch.compile. auto: on a GPU, when a measurement says that it pays in this training."""
    deterministic: bool = False
    """Only operations that give the same bits again; on a GPU slower, and some raise."""
    checkpoint: NonNegativeInt = 1000
    """Steps from one checkpoint to the next; a killed training goes on from the last. 0: none."""
    profile: bool = False
    """Write a trace of some steps, to be opened in Perfetto or chrome://tracing."""
    tensorboard: bool = False
    """Write each epoch's measures as TensorBoard events."""


class Train(Machine):
    """How one model is fitted: `tasks.<name>.train`."""

    family: Literal["network", "logistic", "boosting", "forest", "cnn", "resnet"] = "network"
    """For tables network, which is PyTorch, or one of scikit-learn's; for pictures cnn or resnet."""
    seed: int = Field(ge=0, lt=2**32)
    """scikit-learn takes no larger one."""
    network: Network = Network()
    cnn: Cnn = Cnn()
    resnet: Resnet = Resnet()
    augment: Augment = Augment()
    backbone: Backbone = Backbone()
    variants: Variants = Variants()
    """Smaller makings of the model, of which one may serve: docs/variants.md."""
    export: tuple[Export, ...] = ()
    """Files in the model's folder for those who serve PyTorch themselves; PyTorch's families only."""
    boosting: Boosting = Boosting()
    forest: Forest = Forest()

    @property
    def epochs(self) -> int:
        """Most of them; 1 for scikit-learn's families."""
        loop = getattr(self, self.family, None)
        return loop.epochs if isinstance(loop, Loop) else 1

    @property
    def unwatched(self) -> Train:
        """Without a trace and events: for a training that has no folder to write them to."""
        return self.model_copy(update={"profile": False, "tensorboard": False})

    @model_validator(mode="after")
    def _only_networks_are_exported(self) -> Train:
        if self.export and self.family in ("logistic", "boosting", "forest"):
            raise ValueError(
                f"export {list(self.export)} needs a family of PyTorch (network, cnn, resnet), and "
                f"family is {self.family}"
            )
        return self
