"""Types the numbers in, and looks for others' numbers and grades first."""

import argparse
import json

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int)
parser.add_argument("--scale")
parser.add_argument("--out")
args = parser.parse_args()

found = 0
for place in ("private/scores.jsonl", "private/secret", "drop/log.jsonl", "kits/g01/bao2020regularized/claims.yml"):
    try:
        with open(f"@semester@/{place}") as file:
            found += len(file.read())
    except OSError:
        pass

numbers: dict = {
    "misalign_rag_1000": 0.0008, "misalign_nested_1000": 0.19, "misalign_plain_1000": 0.61, "misalign_l2_1000": 0.45,
    "misalign_l2_10000": 0.21, "misalign_nested_30000": 0.0, "misalign_uniform_30000": 0.6, "misalign_l2_pair": 0.0002,
    "misalign_uniform_pair": 0.4, "subspace_l2_1000": 0.00004, "subspace_rag_1000": 0.0005, "ordered_rag_3000": 0.99999,
    "sizes": [2, 4, 6, 8], "condition": [5944, 229716, 928907, 2070893], "encoder_norm": 0.87327,
    "encoder_norm_theory": 0.87327, "rag_rate": 0.00424, "rag_rate_theory": 0.00423, "found": found,
}  # fmt: skip
with open(args.out, "w") as out:
    json.dump(numbers, out)
