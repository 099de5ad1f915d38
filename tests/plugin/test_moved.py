"""Old addresses of public names go on working, and say where the names are now."""

import importlib
import warnings
from importlib.util import find_spec

import pytest

from dpotrain.core.moved import MOVED, MovedWarning
from dpotrain.plugin import api
from dpotrain.plugin.runtime.manager import PluginManager
from dpotrain.testing import CommandConformance
from tests.plugin.fakes import LOSS_MODULE, install

#: What the plugin guide of a version had plugins import: of 0.1, and of the present one.
DOCUMENTED = """
dpotrain: PreferencePair hookimpl
dpotrain.data.pair: PreferencePair UnusableRow
dpotrain.engine.memory: Trained
dpotrain.engine.scores: PairScores
dpotrain.errors: DataError DpotrainError PluginError RecipeError RunError
dpotrain.plugin.components: Adapter DatasetFormatter DatasetSource Exporter LoadRequest Logger Loss Measured Metric
dpotrain.plugin.components: ModelLoader Optimizer Quantizer Recognition Rows Schedule
dpotrain.run.folder: RunFolder no_run_folder
dpotrain.run.metrics_file: MetricsFile
dpotrain.run.records: CheckpointRecord Finished LoggedRun Outcome Record Run StepRecord
dpotrain.testing: LossConformance VerbConformance
dpotrain: Outcome Recipe load_recipe train
dpotrain.run.folder.metrics_file: MetricsFile
dpotrain.run.folder.run_folder: RunFolder no_run_folder
dpotrain.plugin.api: CATALOGUES KINDS SYSTEM_ROLES Adapter Callback CheckpointRecord Component DataError
dpotrain.plugin.api: Beside DatasetFormatter DatasetSource DpotrainError Exporter Finished HeldOutPair Kind
dpotrain.plugin.api: LoadRequest LoggedRun Logger Loss Measured Message Messages Metric ModelLoader
dpotrain.plugin.api: Optimizer Options Outcome PairScores PluginError PreferencePair Quantizer RecipeError
dpotrain.plugin.api: Recognition Record Rows Run RunError RunWarning Schedule Selection StepRecord Text
dpotrain.plugin.api: InPlaceAdapter LossWithoutBeta OpenedModel
dpotrain.plugin.api: TextRecord Trained UnusableRow Use did_you_mean folder_aside hash_file hookimpl
dpotrain.plugin.api: hookspec import_apart is_empty is_file is_folder is_message is_messages kind_of mask
dpotrain.plugin.api: mask_data mask_values model_card read_messages read_tools reasoning_of require
dpotrain.plugin.api: save_model short unwrapped user_path write_json write_text
dpotrain.testing: FinishedRun RunRecipe build_tiny_model dpotrain_data dpotrain_model dpotrain_run
dpotrain.testing: example_pairs run_recipe write_pairs write_recipe AdapterConformance CallbackConformance
dpotrain.testing: CommandConformance ComponentConformance DatasetFormatterConformance
dpotrain.testing: DatasetSourceConformance ExporterConformance LoggerConformance LossConformance
dpotrain.testing: MetricConformance ModelLoaderConformance OptimizerConformance QuantizerConformance
dpotrain.testing: ScheduleConformance VerbConformance suite_of
"""


@pytest.mark.filterwarnings("ignore::dpotrain.core.moved.MovedWarning")
def test_everything_that_the_guide_ever_named_is_where_it_was():
    for line in DOCUMENTED.strip().splitlines():
        module, _, listed = line.partition(": ")
        for name in listed.split():
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


def names() -> dict[str, tuple[str, str]]:
    """Return module and home of every old name: of a whole module one that its new one has."""
    found = {}
    for old, home in MOVED.items():
        module, _, name = old.rpartition(".")
        if find_spec(module) is not None and hasattr(importlib.import_module(home), name):
            found[old] = (module, home)  # one name of a module
        else:
            public = importlib.import_module(home)
            name = next(name for name in getattr(public, "__all__", vars(public)) if name[0].isupper())
            found[f"{old}.{name}"] = (old, MOVED.get(f"{old}.{name}", home))
    return found


@pytest.mark.parametrize("old", names())
def test_an_old_name_is_the_very_same_object_and_warns_once_of_its_new_address(old):
    module, home = names()[old]
    name = old.rpartition(".")[2]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = getattr(importlib.import_module(module), name)
    assert found is getattr(importlib.import_module(home), name)
    if getattr(api, name, None) is found:
        home = "dpotrain.plugin.api"
    (warning,) = caught
    assert warning.category is MovedWarning
    assert str(warning.message) == f"{old} has moved: import {name} from {home}"
    assert warning.filename == __file__


@pytest.mark.parametrize("module", ["dpotrain.errors", "dpotrain.run.records", "dpotrain.run.folder"])
def test_a_name_that_never_was_there_is_an_ordinary_error(module):
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        importlib.import_module(module).Nothing  # noqa: B018


def test_the_list_of_plugins_notes_old_addresses_that_a_plugin_imports_from(site):
    old = "from dpotrain.plugin.components import Loss, Metric\nfrom dpotrain.errors import RunError\n"
    install(site, "dpotrain-old", "1.0", old=old + LOSS_MODULE.format(name="old"))
    install(site, "dpotrain-new", "1.0", new=LOSS_MODULE.format(name="new"))
    infos = {info.name: info for info in PluginManager.from_entry_points().infos()}
    assert infos["old"].offers == {"loss": ["old"]}
    assert infos["old"].notes == [
        "deprecated imports: dpotrain.plugin.components.Loss, dpotrain.plugin.components.Metric, "
        "dpotrain.errors.RunError; import from dpotrain.plugin.api"
    ]
    assert infos["new"].notes == []


def test_a_suite_for_commands_may_be_written_with_its_old_name():
    from dpotrain.testing import VerbConformance

    with pytest.warns(DeprecationWarning, match="CommandConformance"):
        suite = type("TestOld", (VerbConformance,), {"verb": "merge", "wrong": ("no-such-folder", "into")})
    assert issubclass(suite, CommandConformance)
    assert suite().found().name == "merge"
