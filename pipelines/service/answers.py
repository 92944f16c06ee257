"""An answer as bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.service.record import Answered


def json_answer(task: str, answered: Answered) -> bytes:
    """Written by hand: each part is known to need no escaping (the test reads it back as JSON)."""
    prefix, at = answered.prefix, answered.first
    told = []
    for p, y in zip(answered.probability, answered.prediction, strict=True):
        told.append(f'{{"id":"{prefix}{at:x}","probability":{p:.9g},"prediction":{y:d}}}')
        at += 1
    rows = told[0] if len(told) == 1 else ",".join(told)
    return f'{{"model":"{task}","version":"{answered.version}","predictions":[{rows}]}}'.encode()


def as_object(task: str, answered: Answered) -> dict[str, Any]:
    """The same as a JSON-able object: what BentoML's own way gives back."""
    prefix, first, n = answered.prefix, answered.first, len(answered.probability)
    return {
        "model": task,
        "version": answered.version,
        "predictions": [
            {"id": f"{prefix}{first + i:x}", "probability": float(f"{p:.9g}"), "prediction": int(y)}
            for i, p, y in zip(range(n), answered.probability, answered.prediction, strict=True)
        ],
    }


def arrow_answer(answered: Answered) -> bytes:
    """An Arrow stream: id, probability float32, prediction int8, version."""
    import numpy as np
    import pyarrow as pa

    n = len(answered.probability)
    # An old-style format is the quickest way to many like strings.
    name = (answered.prefix.replace("%", "%%") + "%x").__mod__
    batch = pa.record_batch(
        [
            pa.array(list(map(name, range(answered.first, answered.first + n))), pa.string()),
            pa.array(np.asarray(answered.probability, np.float32)),
            pa.array(np.asarray(answered.prediction, np.int8)),
            pa.repeat(answered.version, n),
        ],
        names=["id", "probability", "prediction", "version"],
    )
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, batch.schema) as stream:
        stream.write_batch(batch)
    return bytes(out.getvalue())
