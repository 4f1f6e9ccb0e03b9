"""Checks that the roles of the template allow the calls that the functions made.

    roles.py FOLDER, the fixture's, once the scenarios have run

Fails for each call that a function's role does not allow. The rights of a role beyond the calls
of the scenarios follow from the ports of its function (shared/integrations/aws/src/rights.rs).
"""

import json
import pathlib
import sys

# Used in place of a call's action.
DELETED = "deleted"


def remember(folder, roles):
    """Records a stack's roles, each with its function."""
    with open(folder / "roles", "a") as file:
        file.writelines(json.dumps(one) + "\n" for one in roles)


def mark_deleted(folder, stack):
    """Records that a stack is being deleted. A function that still runs may outlive its role's rights."""
    with open(folder / "calls", "a") as file:
        file.write(json.dumps([stack, DELETED, "*", True]) + "\n")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def faults(roles, calls):
    functions = dict(roles)
    wrong, callers, deleted = set(), set(), set()
    for role, action, resource, allowed in calls:
        if action == DELETED:
            deleted.add(role)
        elif role in functions:
            stack = role.split("-")[0]
            if allowed:
                callers.add(functions[role])
            elif stack not in deleted:
                wrong.add(f"{functions[role]} may not {action} on {resource.replace(stack, '<stack>')}")
    # A missing record must not pass for allowed calls.
    wrong.update(f"no call of {name} was seen" for name in ("ApiFunction", "RecorderFunction")
                 if name not in callers)
    return sorted(wrong)


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    found = faults(lines(folder / "roles"), lines(folder / "calls"))
    print("\n".join(found))
    sys.exit(bool(found))
