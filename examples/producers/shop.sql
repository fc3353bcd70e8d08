-- The tables of a shop, for which the examples of producers are written.

CREATE TABLE items (
    name text PRIMARY KEY,
    in_stock integer NOT NULL CHECK (in_stock >= 0)
);

CREATE TABLE orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer text NOT NULL,
    item text NOT NULL REFERENCES items,
    shipped_at timestamptz
);
