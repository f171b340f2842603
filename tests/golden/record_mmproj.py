"""Record mmproj.json: what llama.cpp's own converter makes of a tiny model's vision tower.

Run by hand after a change of the pinned llama.cpp:
PYTHONPATH=.:tests python tests/golden/record_mmproj.py LLAMA_CPP/convert_hf_to_gguf.py VERSION

For each type the file's metadata, and of each tensor its type, shape and the sha256 of its data.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tiny_vision import save_vision

from secateur.formats.gguf.reader import read_gguf

OUT = Path(__file__).parent / "mmproj.json"
TYPES = ("F16", "BF16", "F32", "Q8_0")


def main() -> None:
    converter, version = sys.argv[1:]
    recorded: dict = {"converter": version}
    with tempfile.TemporaryDirectory() as aside:
        model = save_vision(Path(aside) / "tiny-vision")
        for kind in TYPES:
            out = Path(aside) / f"{kind}.gguf"
            words = [str(model), "--mmproj", "--outtype", kind.lower(), "--outfile", str(out)]
            subprocess.run([sys.executable, converter, *words], check=True)
            file = read_gguf(out)
            recorded[kind] = {
                "metadata": {key: [v.kind, v.value] for key, v in file.metadata.items()},
                "tensors": {
                    name: [t.type, t.shape, hashlib.sha256(file.data(name)).hexdigest()]
                    for name, t in file.tensors.items()
                },
            }
    OUT.write_text(json.dumps(recorded, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
