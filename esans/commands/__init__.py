"""The commands of `esans` beside the stages: one file each, which is imported when its command is called."""

from __future__ import annotations

from collections.abc import Mapping

# Name -> what it does in one line. A command is `run(arguments)` in the file of its name; it raises EsansError for what a user can mend.
COMMANDS: Mapping[str, str] = {
    "pipeline": "every stage in order, skipping what is up to date",
    "compare": "evaluated runs side by side, with intervals and paired tests: esans compare RUN RUN...",
    "recommend": "the best items of every user, as a table, by a trained or a registered model",
    "validate": "check both raw tables and print a report",
    "retrain": "the scheduled run: retrain as of a day, compare with the champion, publish what is not worse",
    "rollback": "the previous champion serves again",
    "doctor": "what this machine has, what is wrong with it, and what to do",
    "plan": "what data of a size will take: disk, memory, executors, hours, money, and what stops fitting first",
    "deliver": "send MLflow what it could not be sent before: esans deliver WORK_DIR",
    "package": "build what a cluster needs and print its spark-submit commands: esans package --target yarn",
}
