"""A shopping cart. Amounts are in cents."""

from dataclasses import dataclass, field


@dataclass
class Cart:
    prices: dict[str, int]
    items: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, count: int = 1) -> None:
        if name not in self.prices:
            raise KeyError(f"no such product: {name}")
        if count < 1:
            raise ValueError("count must be positive")
        self.items[name] = self.items.get(name, 0) + count

    def total(self) -> int:
        return sum(self.prices[name] * count for name, count in self.items.items())

    def discounted(self, percent: int) -> int:
        """The total after a discount, rounded half up to whole cents."""
        return round(self.total() * (100 - percent) / 100)
