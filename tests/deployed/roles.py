"""Whether the roles of the template let the functions do what they did.

    roles.py FOLDER, the bed's, once the scenarios have run

Fails for each call that a function's role does not allow. Which rights a role has beyond what
the scenarios used is decided by the ports of its function (shared/integrations/aws/src/rights.rs).
"""

import json
import pathlib
import sys

# Stands where a call has its action.
DELETED = "deleted"


def remember(folder, roles):
    """Writes down a stack's roles: each with its function."""
    with open(folder / "roles", "a") as file:
        file.writelines(json.dumps(one) + "\n" for one in roles)


def mark_deleted(folder, stack):
    """Writes down that a stack is being deleted. A function that is still at work may outlive its role's rights."""
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
    # A record that is no longer kept must not pass for good behaviour.
    wrong.update(f"no call of {name} was seen" for name in ("ApiFunction", "RecorderFunction")
                 if name not in callers)
    return sorted(wrong)


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    found = faults(lines(folder / "roles"), lines(folder / "calls"))
    print("\n".join(found))
    sys.exit(bool(found))
