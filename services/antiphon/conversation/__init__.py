"""The conversation engine: hears, takes turns, yields, speaks. It knows no transport and no network."""
