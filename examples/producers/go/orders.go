// Package shop places orders and tells customers of them, with Go's database/sql and whichever
// driver the application has opened it with.
package shop

import (
	"context"
	"database/sql"
	"encoding/json"
)

// Order is what its customer's endpoints are told.
type Order struct {
	ID       int64  `json:"order"`
	Customer string `json:"customer"`
	Item     string `json:"item"`
}

// PlaceOrder sells one item to a customer and tells the customer's endpoints.
//
// If it returns an error, there is neither an order nor an event; an item that is sold out is
// one, with SQLSTATE 23514. (Of an error from Commit nobody knows: look for the order.)
func PlaceOrder(ctx context.Context, db *sql.DB, customer, item string) (Order, error) {
	order := Order{Customer: customer, Item: item}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return Order{}, err
	}
	defer tx.Rollback() // after Commit it does nothing

	const insert = "INSERT INTO orders (customer, item) VALUES ($1, $2) RETURNING id"
	if err := tx.QueryRowContext(ctx, insert, customer, item).Scan(&order.ID); err != nil {
		return Order{}, err
	}
	payload, err := json.Marshal(order)
	if err != nil {
		return Order{}, err
	}
	const enqueue = "SELECT webhook.enqueue('order.created', $1, tenant => $2)"
	if _, err := tx.ExecContext(ctx, enqueue, string(payload), customer); err != nil {
		return Order{}, err
	}
	// Last, since other buyers of this item wait for its row until the commit.
	const take = "UPDATE items SET in_stock = in_stock - 1 WHERE name = $1"
	if _, err := tx.ExecContext(ctx, take, item); err != nil {
		return Order{}, err
	}
	return order, tx.Commit()
}
