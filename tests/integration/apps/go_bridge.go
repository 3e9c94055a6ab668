// A Go hub's side of a Redis server, without its clients: it encodes and decodes with Go's own
// encoding/json, and drops what Go hubs drop (INTEROP). Only the standard library is used.
//
//	go_bridge ADDRESS PREFIX SOURCE
//
// It writes a line "ready" once it is subscribed. Each line that it reads is a command:
// {"channel":"news","message":{...}}, without a channel for a broadcast. For each message that it
// hears it writes a line: the frame that its clients would get, {"channel":...,"frame":...}, or
// why it drops it, {"dropped":...}. It ends with its input.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

const mostBytes = 64 * 1024

type message struct {
	Type      string    `json:"type"`
	Channel   string    `json:"channel,omitempty"`
	ProcessID string    `json:"processId,omitempty"`
	Data      any       `json:"data,omitempty"`
	Timestamp time.Time `json:"timestamp"`
}

type envelope struct {
	SourceID string  `json:"sourceId"`
	Message  message `json:"message"`
}

type command struct {
	Channel string  `json:"channel"`
	Message message `json:"message"`
}

type heard struct {
	Channel string `json:"channel,omitempty"`
	Frame   string `json:"frame,omitempty"`
	Dropped string `json:"dropped,omitempty"`
}

func main() {
	address, prefix, source := os.Args[1], os.Args[2], os.Args[3]
	ear, mouth := dial(address), dial(address)
	patterns := []string{prefix + ":broadcast", prefix + ":channel:*"}
	send(ear, append([]string{"PSUBSCRIBE"}, patterns...)...)
	in := bufio.NewReader(ear)
	for range patterns {
		read(in)
	}
	fmt.Println("ready")
	go listen(in, prefix, source)

	answers := bufio.NewReader(mouth)
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 16*1024*1024)
	for lines.Scan() {
		var told command
		check(json.Unmarshal(lines.Bytes(), &told))
		body, err := json.Marshal(envelope{source, told.Message})
		check(err)
		target := prefix + ":broadcast"
		if told.Channel != "" {
			target = prefix + ":channel:" + told.Channel
		}
		send(mouth, "PUBLISH", target, string(body))
		read(answers)
	}
}

func listen(in *bufio.Reader, prefix, source string) {
	out := json.NewEncoder(os.Stdout)
	for {
		answer, ok := read(in).([]any)
		if !ok || len(answer) != 4 {
			continue
		}
		channel, payload := answer[2].(string), answer[3].(string)
		check(out.Encode(take(channel, payload, prefix, source)))
	}
}

// take does what a Go hub's bridge does with what comes from the server.
func take(channel, payload, prefix, source string) heard {
	if len(payload) == 0 || len(payload) > mostBytes {
		return heard{Dropped: "size"}
	}
	var found envelope
	if err := json.Unmarshal([]byte(payload), &found); err != nil {
		return heard{Dropped: "JSON"}
	}
	if found.SourceID == source {
		return heard{Dropped: "own"}
	}
	got := found.Message
	if got.ProcessID != "" && !isProcess(got.ProcessID) {
		return heard{Dropped: "process"}
	}
	if name := strings.TrimPrefix(channel, prefix+":channel:"); name != channel {
		process := strings.TrimPrefix(name, "process:")
		if !isName(name, 256) || process != name && !isProcess(process) {
			return heard{Dropped: "channel"}
		}
		got.Channel = name
	}
	if got.Timestamp.IsZero() {
		got.Timestamp = time.Now()
	}
	frame, err := json.Marshal(got)
	check(err)
	return heard{Channel: channel, Frame: string(frame)}
}

func isProcess(text string) bool {
	return isName(text, 128) && !strings.Contains(text, ":")
}

func isName(text string, most int) bool {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.:"
	isOther := func(each rune) bool { return !strings.ContainsRune(letters, each) }
	return text != "" && len(text) <= most && strings.IndexFunc(text, isOther) < 0
}

// The server's protocol.

func dial(address string) net.Conn {
	conn, err := net.Dial("tcp", address)
	check(err)
	return conn
}

func send(conn net.Conn, words ...string) {
	var text strings.Builder
	fmt.Fprintf(&text, "*%d\r\n", len(words))
	for _, word := range words {
		fmt.Fprintf(&text, "$%d\r\n%s\r\n", len(word), word)
	}
	_, err := io.WriteString(conn, text.String())
	check(err)
}

func read(in *bufio.Reader) any {
	line, err := in.ReadString('\n')
	check(err)
	kind, rest := line[0], strings.TrimSuffix(line[1:], "\r\n")
	switch kind {
	case '*':
		count, err := strconv.Atoi(rest)
		check(err)
		found := make([]any, count)
		for index := range found {
			found[index] = read(in)
		}
		return found
	case '$':
		size, err := strconv.Atoi(rest)
		check(err)
		text := make([]byte, size+2)
		_, err = io.ReadFull(in, text)
		check(err)
		return string(text[:size])
	case '-':
		check(fmt.Errorf("the server answers %s", rest))
	}
	return rest
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
