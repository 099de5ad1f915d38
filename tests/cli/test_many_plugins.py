"""Fifty installed plugins cost a list what fifty small modules cost, and nothing besides."""

import json
import subprocess
import sys

from tests.plugin.fakes import LOSS_MODULE, install

#: Lists the plugins, and says which modules were imported and how often the hook specifications were read.
LIST = """
import json, sys
import pluggy
read = []
add_hookspecs = pluggy.PluginManager.add_hookspecs
def counted(self, specs):
    read.append(specs.__name__)
    return add_hookspecs(self, specs)
pluggy.PluginManager.add_hookspecs = counted
from dpotrain.cli import main
try:
    main(["plugins"])
except SystemExit:
    pass
print(json.dumps({"modules": sorted(sys.modules), "read": read}), file=sys.stderr)
"""


def listed(site) -> tuple[list[str], dict]:
    code = f"import sys; sys.path.insert(0, {str(site)!r})\n{LIST}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines(), json.loads(done.stderr)


def test_fifty_light_plugins_import_fifty_modules_and_read_the_hooks_once(tmp_path):
    without, with_fifty = tmp_path / "none", tmp_path / "fifty"
    without.mkdir()
    for number in range(50):
        install(with_fifty, f"dpotrain-p{number}", "1.0", mod=LOSS_MODULE.format(name=f"loss-{number}"))
    few, alone = listed(without)
    many, told = listed(with_fifty)
    assert len(many) - len(few) == 50
    more = set(told["modules"]) - set(alone["modules"])
    assert more == {f"dpotrain_p{number}_mod" for number in range(50)}
    assert told["read"] == ["Hooks"]
