"""python -m pipelines.service.keeper <task> --parent <pid of the service>"""

import logging
import os
import sys

from pipelines.service.keeper.keep import main

status = 1
try:
    status = main(sys.argv[1:])
except SystemExit as end:
    status = end.code if isinstance(end.code, int) else 1
except BaseException:
    logging.getLogger("pipelines.service.keeper").exception("the keeper died")
# Threads may hang in a download or be in the middle of a model; nothing waits for them.
logging.shutdown()
sys.stderr.flush()
os._exit(status)
