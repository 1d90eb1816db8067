"""What commands there are: the group of each, its name, where it is, and what it does in a line.

The command line (`app`) registers them from these rows, and the help of them all (`overview`) is made of the same,
for which none is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence

ABOUT = "A living memory for AI agents."

MEMORIES = "Memories"
JOURNAL = "Raw journal"
SERVICE = "Service"
OPERATION = "Operation"
OWN = "Options"
COMMON = "Options of every command"
GROUPS = (MEMORIES, JOURNAL, SERVICE, OPERATION, OWN, COMMON)
"""In the order in which help shows them."""

COMMANDS = (
    (MEMORIES, "store", "encode:store", "Keep a text as a memory."),
    (MEMORIES, "recall", "recall:recall", "Find memories; without a query, the newest."),
    (MEMORIES, "associate", "recall:associate", "Find what a memory is linked to."),
    (MEMORIES, "timeline", "timeline:timeline", "Show memories by the time they were made."),
    (MEMORIES, "inspect", "recall:inspect", "Show one memory with all that is known of it."),
    (MEMORIES, "update", "encode:update", "Correct a memory."),
    (MEMORIES, "forget", "lifecycle:forget", "Delete memories and raw entries."),
    (MEMORIES, "restore", "lifecycle:restore", "Bring back what decay has archived, or list it."),
    (MEMORIES, "set-mode", "lifecycle:set_mode", "Show memories as they were stored, or as remembered."),
    (MEMORIES, "load", "load:load", "Keep each line of a file as a memory."),
    (JOURNAL, "store-raw", "encode:store_raw", "Keep a text verbatim in the raw journal."),
    (JOURNAL, "recall-raw", "recall:recall_raw", "Find entries of the raw journal."),
    (JOURNAL, "dream-tick", "dream:dream_tick", "Make memories of what the raw journal holds."),
    (SERVICE, "init", "init:init", "Write a configuration with a key; show what MCP clients need."),
    (SERVICE, "serve", "serve:command", "Run the daemon."),
    (SERVICE, "mcp", "mcp:mcp", "Give an MCP client, on stdin and stdout, the tools of a daemon."),
    (SERVICE, "connect", "connect:connect", "Tell an MCP client of the daemon."),
    (SERVICE, "service", "service:app", "Make a service of the daemon, for systemd or launchd."),
    (SERVICE, "healthcheck", "health:healthcheck", "Ask whether the daemon lives."),
    (OPERATION, "consolidate", "consolidate:consolidate", "Merge duplicates, and make knowledge of memories."),
    (OPERATION, "decay-tick", "lifecycle:decay_tick", "Bring every memory's fidelity up to date."),
    (OPERATION, "compact", "lifecycle:compact", "Rid the disk of every trace of what was deleted."),
    (OPERATION, "export", "archive:export", "Write all memories into an archive."),
    (OPERATION, "import", "archive:app", "Read an archive back in; take one back."),
    (OPERATION, "redact", "redact:redact", "Take secrets out of what the raw journal has."),
    (OPERATION, "backup", "backup:backup", "Copy the data directory while the daemon serves."),
    (OPERATION, "stats", "stats:stats", "Count what is stored."),
    (OPERATION, "namespaces", "namespaces:namespaces", "List the namespaces."),
    (
        OPERATION,
        "migrate-store-encryption",
        "encryption:migrate_store_encryption",
        "Encrypt what was stored plain.",
    ),
    (
        OPERATION,
        "change-passphrase",
        "encryption:change_passphrase",
        "Put the store's keys under another passphrase.",
    ),
    (OPERATION, "rotate-key", "encryption:rotate_key", "Encrypt all anew under new keys."),
    (OPERATION, "audit-verify", "audit:audit_verify", "Check the audit log; changes nothing."),
    (OPERATION, "audit-rotate", "audit_rotate:audit_rotate", "Close the audit log's file; go on in a new one."),
    (OPERATION, "fsck", "fsck:fsck", "Check that what is stored adds up; mend indexes."),
    (OPERATION, "reindex", "reindex:reindex", "Build the search index anew from the memories."),
    (OPERATION, "key", "keys:app", "Make, list and revoke API keys."),
    (OPERATION, "doctor", "doctor:doctor", "Look for what stands in the way of the daemon."),
    (OPERATION, "torture", "torture:torture", "Kill daemons on a copy; look what is lost."),
    (OPERATION, "config", "config:app", "Check the configuration; write one."),
    (OPERATION, "schema", "schema:schema", "Show the schema of what a command prints."),
    (COMMON, "--install-completion", "completion:install", "Let the shell complete what is typed."),
)

HELP = ("--help", "-h")
VERSION = ("--version",)
FLAGS = ((HELP, "Display this message and exit."), (VERSION, "Display application version."))
"""What the library for command lines registers by itself: all names of each, and what it does."""


def asks_for_help(words: Sequence[str]) -> bool:
    """Whether `words`, those of a command line before `--` without common options, have a flag for help."""
    return any(word in HELP for word in words)


def asks_for_overview(words: Sequence[str]) -> bool:
    """Whether they ask for help without naming a command, so that the help of all is meant."""
    named = next((word for word in words if word not in (*HELP, *VERSION)), None)
    return asks_for_help(words) and all(named != name for _group, name, _path, _summary in COMMANDS)
