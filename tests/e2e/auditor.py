"""An auditor who remembers the lists of builds that were shown, and later asks for them as of then."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import psycopg

from tests.support.server import Server

HEAD = "SELECT max(notification_id) FROM stored_events"


@dataclass
class Auditor:
    server: Server
    remembered: list[tuple[str, int, dict[str, Any]]] = field(default_factory=list)
    """Paths, positions and answers."""

    def look(self, *paths: str) -> None:
        """Remembers what is shown, unless something happens meanwhile: then it is not known of which position it is."""
        with psycopg.connect(self.server.settings.database_url, autocommit=True) as connection:
            for path in paths:
                (head,) = connection.execute(HEAD).fetchall()
                answer = self.server.admin.get(path, headers={"Testhide-Min-Position": str(*head)})
                if connection.execute(HEAD).fetchall() == [head]:
                    self.remembered.append((path, *head, answer.json()))

    def look_back(self, deleted: Collection[int]) -> int:
        """Asserts that answers are as they were, without texts of builds deleted since. Returns how many there are."""
        for path, position, then in self.remembered:
            now = self.server.admin.get(path, params={"as_of": position}).json()
            erased = [item["id"] for item in then["results"] if item["id"] in deleted]
            results = [
                item | {"branch": "", "commit_sha": None} if item["id"] in erased else item for item in then["results"]
            ]
            assert now == then | {"results": results, "erased": erased}, f"{path} as of {position}"
        return len(self.remembered)
