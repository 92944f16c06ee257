"""Great Expectations' own Data Docs, for those who use them: `site/index.html` in their folder.

Their pages load styles and scripts from addresses on the internet; without one they can be read but
look bare. The page that people are sent to is `pipelines/pages.py`.
"""

from __future__ import annotations

import datetime as dt
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.adapters.suite import Rule

with warnings.catch_warnings():
    # Deprecations inside the library and in what it imports: nothing here can change them.
    warnings.simplefilter("ignore")
    import great_expectations as gx
    from great_expectations.core.run_identifier import RunIdentifier
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )
    from great_expectations.data_context.types.resource_identifiers import (
        ExpectationSuiteIdentifier,
        ValidationResultIdentifier,
    )

NO_TIME = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
"""The time of every run: one page a period, written over, so the folder grows with the periods and
not with the runs."""


def write(result: Any, rules: Sequence[Rule], task: str, period: str, docs: Path) -> None:
    """One batch's page, the suite's page and the index; the pages of other batches stay."""
    stores = InMemoryStoreBackendDefaults()
    stores.stores[stores.validation_results_store_name]["store_backend"] = {
        **_files(docs / "results"),
        "filepath_suffix": ".json",
    }
    stores.data_docs_sites = {
        "site": {
            "class_name": "SiteBuilder",
            "show_how_to_buttons": False,
            "store_backend": _files(docs / "site"),
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        }
    }
    quiet = ProgressBarsConfig(globally=False)
    context = gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(store_backend_defaults=stores, progress_bars=quiet),
    )
    context.suites.add(
        gx.ExpectationSuite(name=task, expectations=[rule.expectation for rule in rules])
    )
    suite = ExpectationSuiteIdentifier(name=task)
    run_id = RunIdentifier(run_name=period, run_time=NO_TIME)
    page = ValidationResultIdentifier(
        expectation_suite_identifier=suite, run_id=run_id, batch_identifier=task
    )
    result.meta |= {"run_id": run_id, "validation_time": NO_TIME}
    context.validation_results_store.store_validation_results(
        suite_validation_result=result,
        suite_validation_result_identifier=page,
        expectation_suite_identifier=suite,
    )
    context.build_data_docs(resource_identifiers=[page, suite])


def _files(folder: Path) -> dict[str, str]:
    return {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)}
