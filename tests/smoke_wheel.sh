#!/usr/bin/env bash
# Build the wheel, install it into a fresh environment and use it from another folder.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
bin=$(cd "$root" && cd "${BIN:-.venv/bin}" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$bin/python" -m build --wheel --outdir "$work/dist" "$root" >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
"$bin/python" -m venv "$work/venv"
if command -v uv >/dev/null 2>&1; then
  uv pip install --quiet --python "$work/venv/bin/python" -c "$root/constraints.txt" "$(echo "$work"/dist/*.whl)[cpu]"
else
  "$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$root/constraints.txt" "$(echo "$work"/dist/*.whl)[cpu]"
fi
cd "$work"
PATH="$work/venv/bin:$PATH"
pellucid --help >/dev/null
python - <<'EOF'
import numpy as np, pandas as pd
rng = np.random.default_rng(0)
patients = np.repeat(np.arange(60), 2)
diagnosis, device = rng.integers(0, 2, 60), rng.integers(0, 2, 60)
vectors = rng.normal(size=(120, 8)).astype("float32")
vectors[:, 0] += 3 * device[patients]
np.save("vectors.npy", vectors)
pd.DataFrame({"patient": patients, "diagnosis": diagnosis[patients], "device": device[patients]}).to_csv("table.csv", index=False)
EOF
pellucid audit --vectors vectors.npy --table table.csv --patient patient --clinical diagnosis --acquisition device \
  --permutations 199 --out audit
python - <<'EOF'
import json
found = {v["name"]: v for v in json.load(open("audit/audit.json"))["variables"]}
assert found["device"]["score"] > 0.9 and found["device"]["p_value"] < 0.05, found["device"]
assert found["diagnosis"]["score"] < 0.75, found["diagnosis"]
from pellucid.cohort.config import find_recipe
assert find_recipe("pretrain", "mae-tiny-cpu").is_file()
EOF
# The processes that read must find the wheel too, and its thresholds of quality.
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
pellucid scan study.yaml | grep "24 images of 12 patients"
echo "the wheel works from another folder"
