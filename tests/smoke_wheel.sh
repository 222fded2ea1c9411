#!/usr/bin/env bash
# Build the sdist and from it the wheel, install that into a fresh environment, and use it in a folder that holds files
# named like the packages of a checkout.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
bin=$(cd "$root" && cd "${BIN:-.venv/bin}" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$bin/python" -m build --outdir "$work/dist" "$root" >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
"$bin/python" - "$root" "$work"/dist/*.whl <<'EOF'
import sys, zipfile
from pathlib import Path
root, wheel = Path(sys.argv[1]), sys.argv[2]
names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
assert {name.partition("/")[0] for name in names} == {"pellucid"}, "more than one top-level package"
tree = {path.relative_to(root).as_posix() for path in (root / "pellucid").glob("*.py")}
for room in ("api", "cli"):
    tree |= {path.relative_to(root).as_posix() for path in (root / "pellucid" / room).rglob("*.py")}
for package in ("cohort", "embed", "pretrain", "probes", "explore"):
    files = [path for path in (root / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    tree |= {f"pellucid/{path.relative_to(root).as_posix()}" for path in files}
tree |= {f"pellucid/cohort/{path.relative_to(root).as_posix()}" for path in (root / "configs").rglob("*.yaml")}
assert names == tree, f"missing: {sorted(tree - names)}, not in the tree: {sorted(names - tree)}"
EOF
"$bin/python" -m venv "$work/venv"
if command -v uv >/dev/null 2>&1; then
  uv pip install --quiet --python "$work/venv/bin/python" -c "$root/constraints.txt" "$(echo "$work"/dist/*.whl)[cpu]"
else
  "$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$root/constraints.txt" "$(echo "$work"/dist/*.whl)[cpu]"
fi
mkdir "$work/notebooks"
cd "$work/notebooks"
unset PYTHONPATH
PATH="$work/venv/bin:$PATH"
for name in cohort embed pretrain probes explore; do
  echo 'raise SystemExit(f"{__file__} was imported instead of a module of Pellucid")' >"$name.py"
done
pellucid --help >/dev/null
python - <<'EOF'
import numpy as np, pandas as pd, pellucid
rng = np.random.default_rng(0)
patients = np.repeat(np.arange(60), 2)
diagnosis, device = rng.integers(0, 2, 60), rng.integers(0, 2, 60)
vectors = rng.normal(size=(120, 8)).astype("float32")
vectors[:, 0] += 3 * device[patients]
np.save("vectors.npy", vectors)
table = pd.DataFrame({"patient": patients, "diagnosis": diagnosis[patients], "device": device[patients]})
table.to_csv("table.csv", index=False)
found = pellucid.audit(vectors, table, patient="patient", clinical=["diagnosis"], acquisition=["device"], permutations=19, further=False)
assert found["pairs"], found
EOF
python -m pellucid audit --vectors vectors.npy --table table.csv --patient patient --clinical diagnosis \
  --acquisition device --permutations 199 --out audit
python - <<'EOF'
import json
found = {v["name"]: v for v in json.load(open("audit/audit.json"))["variables"]}
assert found["device"]["score"] > 0.9 and found["device"]["p_value"] < 0.05, found["device"]
assert found["diagnosis"]["score"] < 0.75, found["diagnosis"]
from pellucid.cohort.config import find_recipe
assert find_recipe("pretrain", "mae-tiny-cpu").is_file()
EOF
# The reading processes must find the wheel, too, and its quality thresholds.
python - <<'EOF'
import numpy as np
from pathlib import Path
from PIL import Image
Path("photos").mkdir()
for i in range(24):
    pixels = np.random.default_rng(i).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(f"photos/case{i // 2}_{i % 2}.png")
EOF
printf "images: photos\npatient: {from_path: '(case[0-9]+)_'}\nspecialty: dermatology\n" > study.yaml
python -m pellucid scan study.yaml | grep "24 images of 12 patients"
python -m pellucid embed study.yaml --backbone pixels | grep "24 vectors"
echo "the wheel built from the sdist works next to files named like its packages"
