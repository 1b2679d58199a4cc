"""The MCP server behind the proxies: FastMCP, with one tool. `python -m benchmarks.proxies.tools PORT`."""

import sys

from fastmcp import FastMCP

from .asked import TOOLS

server = FastMCP("benchmark")


@server.tool
def add(one: int, other: int) -> int:
    return one + other


if __name__ == "__main__":
    server.run(
        transport="http", host="127.0.0.1", port=int(sys.argv[1]), path=TOOLS, show_banner=False, log_level="error"
    )
