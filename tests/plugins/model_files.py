"""What the tests of the files of models and adapters do with them."""

import json
import warnings

import pytest
from safetensors.torch import load_file, save_file

from dpotrain.core.errors import DpotrainError, RunWarning
from dpotrain.plugin.api import LoadRequest
from dpotrain_plugins.transformers_loader import TransformersLoader

KEPT, MERGED = LoadRequest(keep_adapter=True), LoadRequest()


def loader(folder):
    return TransformersLoader(TransformersLoader.Options(name=str(folder)))


def raised(folder):
    """What loading says of the files, kept or merged, and the blueprint too, which `check` and `plan` look at."""
    said = set()
    for request in (KEPT, MERGED):
        for load in (loader(folder).load_model, loader(folder).blueprint):
            with pytest.raises(DpotrainError) as error:
                load(request)
            said.add(str(error.value))
    assert len(said) == 1, said
    return said.pop()


def warned(load, request=MERGED):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load(request)
    return [str(each.message) for each in caught if each.category is RunWarning]


def rewrite(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def change(file, change):
    weights = load_file(file)
    change(weights)
    save_file(weights, file, {"format": "pt"})
