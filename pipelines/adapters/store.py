from pipelines.store import *  # temporary: moved to pipelines/store.py  # noqa
from pipelines.store import _digest  # noqa
