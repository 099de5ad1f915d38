import re
from pathlib import Path
from tests.plugin.fakes import install
from tests.run.recipes import project
from dpotrain.plugin.api.kinds import KINDS

def test_it(forked, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    install(site, "dpotrain-spy", "1.0", spy=Path(__file__).with_name("spying.py").read_text())
    recipe = project(tmp_path / "project")
    t = re.sub(r'^(use|format) = ".*"$', r'\1 = "spy"', recipe.read_text(), flags=re.M)
    t = t.replace('warmup_fraction = 0.2','').replace('epochs = 2', 'steps = 2') + '[quantizer]\nuse="spy"\n[adapter]\nuse="spy"\n'
    for x in ("metrics","callbacks","loggers","exporters"): t += f'[[{x}]]\nuse="spy"\n'
    recipe.write_text(t)
    env={"SPY": str(tmp_path/"spy.txt")}
    ended = forked.ranks(recipe, ["checkpoints.every=1","evaluation.every=1"], path=[site], environment=env, resume=False)
    print(ended[0].output[-3000:], ended[1].output[-1500:])
    lines = sorted(set((tmp_path/"spy.txt").read_text().splitlines()), key=lambda l: l.split()[1:])
    by={}
    for l in lines:
        r,o,m=l.split(); by.setdefault((o,m),[]).append(r)
    for k,v in by.items(): print(k,v)
    assert 0
