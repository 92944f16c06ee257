"""Health check of a container: healthy.py <url> [component of Airflow]; exit status 0 when healthy.

A component has no port of its own: Airflow's API server, at <url>, tells its last heartbeat.
"""

import sys

from pipelines.stack.ask import answers, beats

url, *component = sys.argv[1:]
sys.exit((beats(url, *component) if component else answers(url))(0))
