"""Record tensor_types.json: what the real llama-quantize --dry-run makes of our exported files,
and which files it reads at all.

Run by hand after a change of the pinned llama.cpp or of a shipped recipe:
PYTHONPATH=.:tests python tests/golden/record_tensor_types.py BUILD/bin/llama-quantize VERSION
"""

import hashlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from record_llama_types import LINE, write_imatrix
from test_llama_types import summary
from test_recipes import CASES, exported, form_of

from secateur.formats.gguf.container import Value, file_bytes, header_parts

WORDS = (
    "attn_q=q8_0", "ATTN_Q=Q8_0", "attn_q=q8_0\\vattn_k=q4_0\\fattn_v=Q5_1\\r\\n\\tffn_up=q6_k",
    "# a comment", "attn_q=q8_0 # a comment", "attn_q = q8_0", "attn_q=Q4_K_M", "attn_q=IQ3_M",
    "attn_q=", "=q8_0", "attn_q=q8_0=q4_0", "attn_q", "", "attn_q=copy", "a{=q8_0", "(=q8_0",
    "(?i)a=q8_0", "(?:q|k)=q8_0", "(?!blk)=q8_0", r"blk\.\d\.attn_(q|k)\.weight$=q8_0",
)  # fmt: skip


def ask(tool: str, folder: Path, form, base: str, text: str, imatrix: bool):
    """(exit code, output) of a dry run on a file that is a header and a hole."""
    path, types = folder / "model.gguf", folder / "types.txt"
    infos = [tensor.info for tensor in form.tensors]
    metadata = {**form.metadata, "general.name": Value("string", "shape")}
    with path.open("wb") as file:
        file.writelines(header_parts(metadata, infos))
        file.truncate(file_bytes(metadata, infos))
    types.write_bytes(text.encode())
    command = [tool, "--dry-run", "--tensor-type-file", str(types)]
    command += ["--imatrix", str(folder / "imatrix.gguf")] * imatrix
    done = subprocess.run([*command, str(path), base], check=False, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def main() -> None:
    tool, version = sys.argv[1:]
    cases, read = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_imatrix(folder / "imatrix.gguf")
        for case in CASES:
            form, types = form_of(case, folder), exported(case, folder)
            code, said = ask(tool, folder, form, types.base, types.text, case.imatrix)
            assert code == 0, said
            lines = [found for line in said.splitlines() if (found := LINE.match(line.strip()))]
            assert len(lines) == len(form.tensors), said
            chosen = {found[1]: (found[3] or found[2]).upper() for found in lines}
            ours = {choice.name: choice.type for choice in form.choices}
            print(case, "equal" if chosen == ours else "DIFFERS")
            fallbacks = re.search(r"WARNING: (\d+) of \d+ tensor\(s\) required fallback", said)
            cases.append(
                {
                    **case._asdict(),
                    "text": hashlib.sha256(types.text.encode()).hexdigest(),
                    "types": summary(chosen.items()),
                    "fallbacks": int(fallbacks[1]) if fallbacks else 0,
                }
            )
        form = form_of(CASES[0], folder)
        for word in WORDS:
            text = word.encode().decode("unicode_escape") if "\\v" in word else word
            code, said = ask(tool, folder, form, "Q4_K_M", text, False)
            read.append([text, code == 0, said.count("applying manual override")])
            print(read[-1])
    found = {"tool": version, "cases": cases, "read": read}
    target = Path(__file__).with_name("tensor_types.json")
    lines = ",\n".join(json.dumps(case) for case in cases)
    rows = ",\n".join(json.dumps(row) for row in read)
    target.write_text(
        f'{{"tool": {json.dumps(version)}, "cases": [\n{lines}\n], "read": [\n{rows}\n]}}\n'
    )
    assert json.loads(target.read_text()) == found


if __name__ == "__main__":
    main()
