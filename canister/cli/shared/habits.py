"""Lines written for dfx and icp, as lines of this command. After `alias dfx=canister` they work as they stand.

    dfx -q --identity alice canister --network local call X whoami
    →  canister call X whoami --identity alice --network local

Options in front of a command, or between its words, move behind it if the command has them. Options that mean nothing
here are dropped, and those that mean another network are refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from typer.core import TyperGroup, TyperOption

from canister.cli.shared.connection import LOCAL, only_local, url_of

GROUP = "canister"  # the group of icp and dfx whose commands stand at the top here

# Options that move behind the command, by their names there, and options that are dropped.
_WITH_VALUE = {
    "--identity": "--identity",
    "--network": "--network",
    "--environment": "--environment",
    "-e": "--environment",
    "-n": "--network",
    "--identity-password-file": "",
    "--log": "",
    "--logfile": "",
    "--project-root-override": "",
    "--provisional-create-canister-effective-canister-id": "",
}
_NETWORKS = {"--ic": "ic", "--playground": "playground"}
_DROPPED = {"--quiet", "--verbose", "--debug"}


def translated(root: TyperGroup, arguments: Sequence[str]) -> list[str]:
    """A command line with its options behind the command. Raises typer.BadParameter for another network."""
    words = list(arguments)
    path: list[str] = []
    moved: list[tuple[str, str]] = []
    group: object = root
    while words and isinstance(group, TyperGroup):
        if _take(words, moved):
            continue
        word = words[0]
        if word not in group.commands and path == [GROUP] and word in root.commands:
            path, group = [], root  # a command of ours behind their word
        if word.startswith("-"):
            break
        if word not in group.commands and group is root and word in _commands_of(root, GROUP):
            path, group = [GROUP], root.commands[GROUP]
        if not isinstance(group, TyperGroup) or word not in group.commands:
            break
        path.append(words.pop(0))
        group = group.commands[word]
    if not path:
        return words
    if path in (["start"], ["stop"]) and words and not words[0].startswith("-") and words[0] != LOCAL:
        path, group = [GROUP, *path], _command(root, GROUP, path[0])  # a canister, not the server
    return path + _fitting(moved, group) + _named(words, group)


def _take(words: list[str], moved: list[tuple[str, str]]) -> bool:
    """Take an option of icp or dfx from the front, if there is one."""
    flag, equals, value = words[0].partition("=")
    if flag in _WITH_VALUE and (equals or len(words) > 1):
        moved.append((_WITH_VALUE[flag], value if equals else words[1]))
        del words[: 1 if equals else 2]
    elif flag in _NETWORKS:
        moved.append(("--network", _NETWORKS[flag]))
        del words[0]
    elif flag in _DROPPED or (flag[:1] == "-" and set(flag[1:]) in ({"q"}, {"v"})):
        del words[0]
    else:
        return False
    return True


def _fitting(moved: list[tuple[str, str]], command: object) -> list[str]:
    """Those of the options in front that the command has."""
    known = _options_of(command)
    kept: list[str] = []
    for flag, value in moved:
        if flag in known:
            kept += [flag, value]
        elif flag == "--network":
            url_of(value)  # refuses what is not here
        elif flag == "--environment":
            only_local(value)
    return kept


def _named(words: list[str], command: object) -> list[str]:
    """The rest of the line, where networks that have an option of their own are named as such."""
    if "--network" not in _options_of(command):
        return words
    end = words.index("--") if "--" in words else len(words)
    front = [
        part for word in words[:end] for part in (("--network", _NETWORKS[word]) if word in _NETWORKS else (word,))
    ]
    return front + words[end:]


def _options_of(command: object) -> set[str]:
    parameters = getattr(command, "params", ())
    return {name for option in parameters if isinstance(option, TyperOption) for name in option.opts}


def _commands_of(root: TyperGroup, name: str) -> Sequence[str]:
    group = root.commands.get(name)
    return list(group.commands) if isinstance(group, TyperGroup) else []


def _command(root: TyperGroup, name: str, command: str) -> object:
    group = root.commands.get(name)
    return group.commands.get(command) if isinstance(group, TyperGroup) else None
