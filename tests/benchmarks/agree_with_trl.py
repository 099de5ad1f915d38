"""Do dpotrain and TRL take the same steps? Exits with 1 where a step's losses differ by more than ``--bar``.

python -m tests.benchmarks.agree_with_trl --model DIR --data PAIRS.jsonl --mode full --loss nca --trl-python PYTHON
"""

import argparse
import sys
from pathlib import Path

from tests.benchmarks.agreement import largest_difference
from tests.benchmarks.objectives import CASES
from tests.benchmarks.sides import Side, SideFailed, model_source, run_dpotrain
from tests.benchmarks.workload import Workload


def main() -> None:
    """Compare and print."""
    cases = {case.name: case for case in CASES if case.trainer == "dpo"}
    parser = argparse.ArgumentParser(description="Compare the losses of dpotrain and TRL step by step.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--mode", choices=["full", "lora"], default="full")
    parser.add_argument("--loss", choices=cases, default="dpo")
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--pairs-per-step", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--lr", type=float, default=1e-6)
    parser.add_argument("--bar", type=float, default=1e-3)
    parser.add_argument("--trl-python", default=sys.executable)
    options = vars(parser.parse_args())
    bar, python = options.pop("bar"), options.pop("trl_python")
    case = cases[options.pop("loss")]
    options["model"] = model_source(options["model"])
    options["data"] = str(Path(options["data"]).resolve())
    workload = Workload(**options, precision="fp32", loss=case.loss, trl_loss=case.theirs)
    trl = Side("trl", python)
    if reason := trl.why_not():
        sys.exit(f"{reason}; name an interpreter that has it with --trl-python")
    try:
        ours, theirs = run_dpotrain(workload)["losses"], trl.run(workload)["losses"]
    except SideFailed as error:
        sys.exit(str(error))
    ours = [each + case.constant for each in ours]
    worst = largest_difference(ours, theirs)
    if worst is None:
        sys.exit(f"dpotrain took {len(ours)} steps and TRL {len(theirs)}: they did not keep the same pairs")
    print("step   dpotrain        TRL   difference")
    for step, (one, two) in enumerate(zip(ours, theirs, strict=True), 1):
        print(f"{step:4d} {one:10.6f} {two:10.6f}   {one - two:+.1e}")
    print(f"largest difference {worst:.1e}")
    sys.exit(worst > bar)


if __name__ == "__main__":
    main()
