"""An answer as bytes."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.service.asked import Answered


_LONE = b'{"model":"%b","version":"%b","predictions":[{"id":"%b%x","probability":%.9g,"prediction":%d}]}'


def json_answer(task: str, answered: Answered) -> bytes:
    """Written by hand: each part is known to need no escaping (the test reads it back as JSON)."""
    prefix, at = answered.prefix, answered.first
    # As most are: in a third of the time.
    if len(answered.probability) == 1 and not answered.classes:
        return _LONE % (
            task.encode(), answered.version.encode(), prefix.encode(), at,
            answered.probability[0], answered.prediction[0],
        )  # fmt: skip
    told = []
    if answered.classes:
        names = _in_json(answered.classes)
        for each, name in zip(answered.probability, answered.prediction, strict=True):
            of_each = ",".join(
                f"{names[k]}:{p:.9g}" for k, p in zip(answered.classes, each, strict=True)
            )
            told.append(
                f'{{"id":"{prefix}{at:x}","probability":{max(each):.9g},'
                f'"prediction":{names[name]},"probabilities":{{{of_each}}}}}'
            )
            at += 1
    else:
        for p, y in zip(answered.probability, answered.prediction, strict=True):
            told.append(f'{{"id":"{prefix}{at:x}","probability":{p:.9g},"prediction":{y:d}}}')
            at += 1
    rows = ",".join(told)
    return f'{{"model":"{task}","version":"{answered.version}","predictions":[{rows}]}}'.encode()


@lru_cache(maxsize=8)
def _in_json(classes: tuple[str, ...]) -> dict[str, str]:
    return {name: json.dumps(name) for name in classes}


def as_object(task: str, answered: Answered) -> dict[str, Any]:
    """The same as a JSON-able object: what BentoML's own way gives back."""
    told: dict[str, Any] = json.loads(json_answer(task, answered))
    return told


def arrow_answer(answered: Answered) -> bytes:
    """An Arrow stream: id, probability float32, prediction int8, version. Where there are classes,
    prediction is text, probability that of the class predicted, and probabilities a list of floats.
    """
    import numpy as np
    import pyarrow as pa

    n = len(answered.probability)
    # An old-style format is the quickest way to many like strings.
    name = (answered.prefix.replace("%", "%%") + "%x").__mod__
    probability = np.asarray(answered.probability, np.float32)
    columns = {
        "id": pa.array(list(map(name, range(answered.first, answered.first + n))), pa.string())
    }
    if answered.classes:
        columns["probability"] = pa.array(probability.max(axis=1))
        columns["prediction"] = pa.array(answered.prediction, pa.string())
        flat = pa.array(probability.ravel())
        columns["probabilities"] = pa.FixedSizeListArray.from_arrays(flat, len(answered.classes))
    else:
        columns["probability"] = pa.array(probability)
        columns["prediction"] = pa.array(np.asarray(answered.prediction, np.int8))
    columns["version"] = pa.repeat(answered.version, n)
    batch = pa.record_batch(list(columns.values()), names=list(columns))
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, batch.schema) as stream:
        stream.write_batch(batch)
    return bytes(out.getvalue())
