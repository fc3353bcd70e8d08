// A bare worker in Go, over the tables of the bare pipeline (benchmarks/baseline): claim as JSON, sign, POST, record as
// JSON, with pgx and net/http, 64 goroutines that send. No limits, fences, retries or metrics.
//
//	bare DSN http://127.0.0.1:PORT/h/
package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/jackc/pgx/v4"
)

const (
	lanes        = 64
	claimed      = 500
	pollInterval = 20 * time.Millisecond
	recordPause  = 20 * time.Millisecond
)

var secret = []byte("0123456789abcdef0123456789abcdef")

type job struct {
	claimID, id, endpointID, attempt, eventID int64
	eventType, payload                        string
}

func (j *job) UnmarshalJSON(text []byte) error {
	return json.Unmarshal(text, &[]interface{}{
		&j.claimID, &j.id, &j.endpointID, &j.attempt, &j.eventID, &j.eventType, &j.payload})
}

func main() {
	jobs, outcomes := make(chan job, claimed), make(chan []interface{}, 2*claimed)
	client := &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{MaxIdleConns: lanes, MaxIdleConnsPerHost: lanes}}
	for n := 0; n < lanes; n++ {
		go func() {
			for j := range jobs {
				outcomes <- deliver(client, j, os.Args[2])
			}
		}()
	}
	go record(connect(os.Args[1]), outcomes)
	claim(connect(os.Args[1]), jobs)
}

func connect(dsn string) *pgx.Conn {
	connection, err := pgx.Connect(context.Background(), dsn)
	if err != nil {
		log.Fatal(err)
	}
	return connection
}

func claim(connection *pgx.Conn, jobs chan<- job) {
	for {
		var text string
		if err := connection.QueryRow(context.Background(), "select p.claim($1::int)", claimed).Scan(&text); err != nil {
			log.Fatal(err)
		}
		var batch []job
		if err := json.Unmarshal([]byte(text), &batch); err != nil {
			log.Fatal(err)
		}
		if len(batch) == 0 {
			time.Sleep(pollInterval)
		}
		for _, j := range batch {
			jobs <- j
		}
	}
}

func deliver(client *http.Client, j job, prefix string) []interface{} {
	started := time.Now()
	status, snippet := post(client, j, prefix)
	outcome := "failed"
	if status >= 200 && status < 300 {
		outcome = "delivered"
	}
	return []interface{}{j.claimID, j.id, status, time.Since(started).Milliseconds(), outcome, snippet}
}

func post(client *http.Client, j job, prefix string) (int, string) {
	body, messageID, timestamp := []byte(j.payload), fmt.Sprintf("msg_%d", j.eventID), fmt.Sprint(time.Now().Unix())
	signed := hmac.New(sha256.New, secret)
	fmt.Fprintf(signed, "%s.%s.", messageID, timestamp)
	signed.Write(body)
	request, err := http.NewRequest("POST", fmt.Sprintf("%s%d", prefix, j.endpointID), bytes.NewReader(body))
	if err != nil {
		return 0, err.Error()
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "w/1")
	request.Header.Set("Webhook-Id", messageID)
	request.Header.Set("Webhook-Timestamp", timestamp)
	request.Header.Set("Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(signed.Sum(nil)))
	response, err := client.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil {
		return 0, err.Error()
	}
	return response.StatusCode, string(answer[:min(len(answer), 1024)])
}

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}

func record(connection *pgx.Conn, outcomes <-chan []interface{}) {
	for first := range outcomes {
		batch := [][]interface{}{first}
		for len(outcomes) > 0 {
			batch = append(batch, <-outcomes)
		}
		text, err := json.Marshal(batch)
		if err != nil {
			log.Fatal(err)
		}
		if _, err := connection.Exec(context.Background(), "select p.record($1::text::json)", string(text)); err != nil {
			log.Fatal(err)
		}
		time.Sleep(recordPause)
	}
}
