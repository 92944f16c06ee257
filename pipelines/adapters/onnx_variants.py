"""Smaller makings of a model's graph, each measured beside it: which one serves.

onnxruntime's converter to half precision (`onnxruntime.transformers.float16`) is not used: on a
graph that begins with an encoder it writes one name twice, which no runtime loads, and casts what
it leaves in full precision to half on the way, epoch seconds of a day included, which overflow.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pipelines import images, variants
from pipelines.adapters import onnx_int8, onnx_layers
from pipelines.artifact import PARITY
from pipelines.graph import open_graph
from pipelines.variant_params import Variants
from pipelines.variants import BATCH, Measured, Seen

if TYPE_CHECKING:
    import onnxruntime

log = logging.getLogger(__name__)

ALONE = 100
"""Rows that are asked one by one as well."""
ROUNDS = {1: 200, BATCH: 40}
"""Most answers timed of each graph, by their rows."""
FEWEST, SECONDS = 5, 5.0
"""Rounds that are timed whatever they take, and what more of them may take."""

Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Chosen:
    """The graph that serves. table: the model as trained, then each variant asked for; answers:
    the graph's own to the test rows. Nothing asked for: no table, and nothing answered."""

    graph: bytes
    name: str
    table: tuple[Measured, ...] = ()
    answers: np.ndarray | None = None


def choose(
    graph: bytes, calibration: Feeds, test: Feeds, label: np.ndarray, settings: Variants
) -> Chosen:
    """Make what is asked for, measure it on the test rows, keep the first within the limits.

    calibration: raw inputs of train or validation rows, each (N, ...); test: of the rows of `label`
    (N,). Without anything asked for it answers at once, with an empty table.
    """
    if not settings.make:
        return Chosen(graph, variants.ORIGINAL)
    made: dict[str, bytes] = {variants.ORIGINAL: graph}
    refused: dict[str, Measured] = {}
    for name in settings.make:
        try:
            made[name] = make(name, graph, calibration, settings)
            open_graph(made[name])
        except _NotApplicable as error:
            refused[name] = variants.refused(name, "applicable", f"not applicable: {error}")
        # A converter raises what it likes; the model as trained is as good as before, and the
        # reason stays on record.
        except Exception as error:
            made.pop(name, None)
            log.warning("variant %s could not be made: %s", name, error)
            refused[name] = variants.refused(name, "made", f"could not be made: {error}")
    seen = _look(made, test)
    trained = seen[variants.ORIGINAL]
    table = (
        variants.original(trained, label),
        *(
            refused.get(name)
            or variants.measure(name, seen[name], trained, label, settings, PARITY)
            for name in settings.make
        ),
    )
    chosen = variants.choose(table).name
    log.info("variants: %s", variants.told(table).reason)
    return Chosen(made[chosen], chosen, table, seen[chosen].answers)


class _NotApplicable(Exception):
    """This kind of graph has nothing that the variant could make smaller."""


def make(name: str, graph: bytes, calibration: Feeds, settings: Variants) -> bytes:
    """name: one of `variant_params.Variant`."""
    model = onnx_layers.read(graph)
    if not onnx_layers.layers(model):
        kinds = ", ".join(sorted({node.op_type for node in onnx_layers.own(model)}))
        raise _NotApplicable(f"the model has no layer of weights to make smaller, only {kinds}")
    if name == "fp16":
        return _half(model)
    if name == "pruned":
        return _pruned(model, settings.prune)
    if name == "int8_dynamic":
        return onnx_int8.dynamic(graph)
    rows = settings.calibration_rows
    return onnx_int8.static(graph, {n: _spread(v, rows) for n, v in calibration.items()})


def _spread(values: np.ndarray, rows: int) -> np.ndarray:
    """At most `rows` of them, evenly over time."""
    places = np.linspace(0, len(values) - 1, min(rows, len(values))).astype(int)
    spread: np.ndarray = values[places]
    return spread


def _half(model: onnx.ModelProto) -> bytes:
    """Weights of layers and embeddings kept in half precision, and used in full.

    onnxruntime has no half-precision arithmetic on x86: asked for it, it casts there and back. So
    the one cast is written at the weights, which it does once, when it loads.
    """
    known = onnx_layers.weights(model)
    names = [layer.input[1] for layer in onnx_layers.layers(model)]
    names += [
        node.input[0]
        for node in onnx_layers.own(model)
        if node.op_type == "Gather"
        and node.input[0] in known
        and known[node.input[0]].data_type == onnx.TensorProto.FLOAT
    ]
    casts = []
    for name in dict.fromkeys(names):
        with np.errstate(over="ignore"):  # infinite then, and refused for its answers
            half = numpy_helper.to_array(known[name]).astype(np.float16)
        known[name].CopyFrom(numpy_helper.from_array(half, name))
        full = f"{name}/full"
        casts.append(helper.make_node("Cast", [name], [full], name=full, to=onnx.TensorProto.FLOAT))
        for node in model.graph.node:
            node.input[:] = [full if read == name else read for read in node.input]
    first = model.graph.node[0]
    onnx_layers.replace(model, {first.name: [*casts, first]})
    return onnx_layers.write(model)


def _pruned(model: onnx.ModelProto, share: float) -> bytes:
    """The smallest weights of each layer as zeros (Han et al. 2015, arXiv:1506.02626), without the
    training that they put behind it."""
    known = onnx_layers.weights(model)
    for name in {layer.input[1] for layer in onnx_layers.layers(model)}:
        weight = numpy_helper.to_array(known[name]).copy()
        smallest = np.argsort(np.abs(weight), axis=None, kind="stable")[: int(weight.size * share)]
        weight.reshape(-1)[smallest] = 0
        known[name].CopyFrom(numpy_helper.from_array(weight, name))
    return onnx_layers.write(model)


def _look(graphs: dict[str, bytes], test: Feeds) -> dict[str, Seen]:
    sessions = {name: open_graph(graph) for name, graph in graphs.items()}
    wanted = [i.name for i in next(iter(sessions.values())).get_inputs()]
    feeds = {name: test[name] for name in wanted}
    some = min(images.together(v.shape[1:3]) for v in feeds.values())
    took = {rows: _in_turns(sessions, feeds, rows, some) for rows in ROUNDS}
    rows = len(next(iter(feeds.values())))
    return {
        name: Seen(
            answers=_answers(session, feeds, rows, some),
            alone=_answers(session, feeds, min(rows, ALONE), 1),
            size_bytes=len(graphs[name]),
            zipped_bytes=len(zlib.compress(graphs[name], 9)),
            row_ms=took[1][name],
            batch_ms=took[BATCH][name],
        )
        for name, session in sessions.items()
    }


def _answers(
    session: onnxruntime.InferenceSession, feeds: Feeds, rows: int, together: int
) -> np.ndarray:
    return np.concatenate(
        [
            session.run(["probability"], part)[0]
            for part in _parts({n: v[:rows] for n, v in feeds.items()}, rows, together)
        ]
    )


def _parts(feeds: Feeds, rows: int, together: int) -> list[dict[str, np.ndarray]]:
    """As the artifact asks a graph, which bounds memory however large the pictures are."""
    starts = range(0, rows, together)
    return [{n: v[at : at + together] for n, v in feeds.items()} for at in starts]


def _in_turns(
    sessions: Mapping[str, onnxruntime.InferenceSession], feeds: Feeds, rows: int, together: int
) -> dict[str, float]:
    """Median milliseconds of each. All answer before any answers again, so that a machine that is
    busy for a while is busy for all of them; and each round begins with the next one, or a busy
    machine that takes its turns as regularly would stop the same one each time (15 times as long,
    seen)."""
    there = len(next(iter(feeds.values())))
    graphs = list(sessions.items())
    took: dict[str, list[float]] = {name: [] for name in sessions}
    until = time.perf_counter() + SECONDS
    for turn in range(ROUNDS[rows]):
        if turn >= FEWEST and time.perf_counter() > until:
            break
        asked = np.arange(turn * rows, (turn + 1) * rows) % there
        parts = _parts({name: values[asked] for name, values in feeds.items()}, rows, together)
        first = turn % len(sessions)
        for name, session in (*graphs[first:], *graphs[:first]):
            began = time.perf_counter()
            for part in parts:
                session.run(["probability"], part)
            took[name].append(time.perf_counter() - began)
    return {name: float(np.median(times)) * 1e3 for name, times in took.items()}
