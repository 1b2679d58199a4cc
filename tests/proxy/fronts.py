"""An nginx or an HAProxy in front of the proxy, with the configuration that the page in the documentation shows."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.processes import HOST, ROOT, Running, free_port, running, until_listens

PAGE: Final = ROOT / "docs" / "how-to" / "behind-a-front.md"
FRONTS: Final = ("nginx", "haproxy")
_BLOCKS: Final = {"nginx": "nginx", "haproxy": "cfg"}
"""How the page marks the block of a front: Pygments does not know HAProxy."""
NGINX: Final = """
daemon off; worker_processes 1; pid {folder}/pid; error_log stderr warn;
events {{ worker_connections 256; }}
http {{
    access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxied;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    {shown}
}}
"""


def shown(front: str, page: Path = PAGE) -> str:
    """Return the configuration of a front as a page shows it."""
    [block] = re.findall(
        rf"^```{_BLOCKS[front]}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    return str(block)


def program(front: str) -> str:
    """Return where a front is. Skip the test where it is not installed; in CI, fail."""
    path = shutil.which(front, path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")
    if path is not None:
        return path
    package = {"nginx": "nginx-light"}.get(front, front)
    reason = f"this test needs {front}: apt-get install {package}"
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@contextlib.contextmanager
def started(front: str, folder: Path, ports: Mapping[int, int], **changes: str) -> Iterator[int]:
    """Run a front as the page about fronts shows it, and return its port. The rest is as in `started_as_on`."""
    with started_as_on(PAGE, front, folder, ports, **changes) as port:
        yield port


@contextlib.contextmanager
def started_as_on(page: Path, front: str, folder: Path, ports: Mapping[int, int], **changes: str) -> Iterator[int]:
    """Run a front, and return its port. `ports` says which port stands for 8080 and for 8081; `changes`, which text for
    which in the configuration.
    """
    path, port = program(front), free_port()
    text = shown(front, page)
    for before, after in changes.items():
        assert before in text
        text = text.replace(before, after)
    text = re.sub(r"(listen |bind :)80\b", lambda found: f"{found[1].replace('bind :', 'bind 127.0.0.1:')}{port}", text)
    for written, meant in ports.items():
        text = text.replace(str(written), str(meant))
    config = folder / f"{front}.conf"
    folder.chmod(0o755)
    config.write_text(NGINX.format(folder=folder, shown=text) if front == "nginx" else text)
    command = [path, "-p", str(folder), "-c", str(config)] if front == "nginx" else [path, "-db", "-f", str(config)]
    with running(front, command, folder) as process:
        until_listens(port, process)
        yield port
        _end(process)


def _end(process: Running) -> None:
    if process.process.poll() is None:
        process.terminate()


def address(port: int) -> str:
    return f"http://{HOST}:{port}"
