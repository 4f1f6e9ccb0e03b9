"""Whether the roles of the template are what the functions need: no less, and no more.

    roles.py FOLDER, the bed's, once the scenarios have run

Less: a call that a function's role does not allow. More: an action in a role that no
scenario made any function use, unless EXCUSED says why.
"""

import fnmatch
import json
import pathlib
import sys

# Role's function, or * for any; action, with * for any part of it; why nobody is seen using it.
EXCUSED = [
    ("*", "logs:*", "Lambda writes a function's log on behalf of its role; the emulator's does not ask"),
    ("*", "sqs:ReceiveMessage", "the event source mapping takes messages on behalf of the role; the emulator's does not ask"),
    ("*", "sqs:DeleteMessage", "as sqs:ReceiveMessage"),
    ("*[!r]Function", "sqs:GetQueueAttributes", "as sqs:ReceiveMessage; the sweeper's is its own"),
    ("NotifierFunction", "sqs:GetQueueAttributes", "as sqs:ReceiveMessage"),
    ("R*rFunction", "dynamodb:GetRecords", "the event source mapping reads the stream on behalf of the role; the emulator's does not ask"),
    ("R*rFunction", "dynamodb:GetShardIterator", "as dynamodb:GetRecords"),
    ("R*rFunction", "dynamodb:DescribeStream", "as dynamodb:GetRecords"),
    ("R*rFunction", "dynamodb:ListStreams", "as dynamodb:GetRecords"),
    ("R*rFunction", "s3:*", "the mapping writes what it gave up; the emulator's never gives up"),
    ("*Function", "s3:ListBucket", "without it S3 answers 403 for a blob that is not there; no scenario loses one"),
    ("OpsAgentFunction", "s3:PutObject", "for results over 100 KB, and no tool of today makes one"),
    ("*[!r]Function", "sqs:ChangeMessageVisibility", "after a lost race, which no scenario can order; tests/lane.rs of adapters-aws does"),
    ("*Function", "sqs:SendMessage", "what nobody can read goes to the dead letters; tests/lane.rs of adapters-aws sends some"),
    ("*Function", "dynamodb:PutItem", "the change log runs over after sixteen changes, and no scenario's task has so many there"),
    ("OpsCycleFunction", "dynamodb:*", "its runs come with its schedule, which is not built yet"),
    ("*Function", "dynamodb:ConditionCheckItem", "for an approval whose task is gone, and a step of a run that lost its lease"),
    ("IntakeFunction", "dynamodb:BatchGetItem", "for the repeat of a task whose payload and result both stand beside it"),
    ("RedisBridgeFunction", "s3:*", "for payloads and results that the table can't hold; no scenario puts such into a queue"),
    ("RecorderFunction", "dynamodb:BatchGetItem", "for what is parked, where the recorder did not have the change before; tests/pump parks"),
    ("RecorderFunction", "dynamodb:DeleteItem", "for what was parked and is recorded; tests/pump parks"),
    ("RecorderFunction", "dynamodb:Query", "for a change log that has run over, see dynamodb:PutItem"),
]

# Stands where a call has its action.
DELETED = "deleted"


def remember(folder, granted):
    """Writes down what a stack's roles allow: role, function, and a statement."""
    with open(folder / "granted", "a") as file:
        file.writelines(json.dumps(one) + "\n" for one in granted)


def mark_deleted(folder, stack):
    """Writes down that a stack is being deleted. A function that is still at work may outlive its role's rights."""
    with open(folder / "calls", "a") as file:
        file.write(json.dumps([stack, DELETED, "*", True]) + "\n")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def listed(value):
    return value if isinstance(value, list) else [value]


def faults(granted, calls):
    functions = {role: function for role, function, _ in granted}
    wrong, made, deleted = set(), {}, set()
    for role, action, resource, allowed in calls:
        if action == DELETED:
            deleted.add(role)
        elif role in functions:
            stack = role.split("-")[0]
            if allowed:
                made.setdefault(role, set()).add((action, resource))
            elif stack not in deleted:
                wrong.add(f"{functions[role]} may not {action} on {resource.replace(stack, '<stack>')}")
    # A record that is no longer kept must not pass for good behaviour.
    wrong.update(f"no call of {name} was seen" for name in ("ApiFunction", "RecorderFunction")
                 if name not in {functions[role] for role in made})
    # By name, as there are many stacks, in which everything has other names.
    seen, unseen = set(), set()
    for role, function, statement in granted:
        for action in listed(statement["Action"]):
            used = any(fnmatch.fnmatchcase(done, action) and fnmatch.fnmatchcase(where, resource)
                       for done, where in made.get(role, ()) for resource in listed(statement["Resource"]))
            (seen if used else unseen).add((function, statement.get("Sid"), action))
    excuses = set()
    for function, sid, action in unseen - seen:
        found = [excuse for excuse in EXCUSED
                 if fnmatch.fnmatchcase(function, excuse[0]) and fnmatch.fnmatchcase(action, excuse[1])]
        excuses.update(found)
        if not found:
            wrong.add(f"{function} was never seen to use {action} of its statement {sid}: "
                      "take it away, or excuse it in roles.py")
    wrong.update(f"roles.py excuses {function} {action} for nothing"
                 for function, action, _ in set(EXCUSED) - excuses)
    return sorted(wrong)


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    found = faults(lines(folder / "granted"), lines(folder / "calls"))
    print("\n".join(found))
    sys.exit(bool(found))
