// Runs govmomi's simulator of a vCenter over TLS, with one user. Prints "ready" when it answers.
//
// POST /test/lose?method=CloneVM_Task makes it carry out the next call of this method and close the connection without
// an answer. POST /test/hold shows tasks that have succeeded as running, until POST /test/release. POST /test/count
// returns how often a method was called, POST /test/names the names of all virtual machines, and
// POST /test/guestinfo?name=NAME what programs in this machine can read, as lines with KEY=VALUE.
package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"

	"github.com/vmware/govmomi/simulator"
)

type gate struct {
	sync.Mutex
	next  http.Handler
	lose  map[string]bool
	held  bool
	count map[string]int
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	method := r.URL.Query().Get("method")
	g.Lock()
	switch r.URL.Path {
	case "/test/lose":
		g.lose[method] = true
	case "/test/hold":
		g.held = true
	case "/test/release":
		g.held = false
	case "/test/count":
		fmt.Fprint(w, g.count[method])
	case "/test/names":
		for _, vm := range simulator.Map.All("VirtualMachine") {
			fmt.Fprintln(w, vm.Entity().Name)
		}
	case "/test/guestinfo":
		writeGuestinfo(w, r.URL.Query().Get("name"))
	default:
		g.Unlock()
		g.forward(w, r)
		return
	}
	g.Unlock()
}

// Of several values for a key, VMware Tools read the last one that was set.
func writeGuestinfo(w io.Writer, name string) {
	for _, found := range simulator.Map.All("VirtualMachine") {
		vm := found.(*simulator.VirtualMachine)
		if vm.Name != name {
			continue
		}
		for _, option := range vm.Config.ExtraConfig {
			value := option.GetOptionValue()
			fmt.Fprintf(w, "%s=%v\n", value.Key, value.Value)
		}
	}
}

func (g *gate) forward(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	answer := httptest.NewRecorder()
	// One request at a time: the simulator does not lock all that it reads and changes, and ended during reverts.
	g.Lock()
	g.next.ServeHTTP(answer, r)
	lost, held := false, g.held
	for _, part := range strings.Split(string(body), "<")[1:] {
		name := strings.FieldsFunc(part, func(c rune) bool { return c == ' ' || c == '>' })[0]
		g.count[name]++
		if g.lose[name] {
			lost = true
			delete(g.lose, name)
		}
	}
	g.Unlock()
	if lost {
		connection, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			connection.Close()
		}
		return
	}
	text := answer.Body.Bytes()
	if held {
		text = bytes.ReplaceAll(text, []byte(">success<"), []byte(">running<"))
	}
	for name, values := range answer.Header() {
		w.Header()[name] = values
	}
	w.Header().Del("Content-Length")
	w.WriteHeader(answer.Code)
	w.Write(text)
}

func main() {
	address, user, password, certificate, key := os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]
	model := simulator.VPX()
	if err := model.Create(); err != nil {
		panic(err)
	}
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		panic(err)
	}
	model.Service.Listen = &url.URL{Scheme: "https", Host: address, User: url.UserPassword(user, password)}
	// Without HTTP/2, whose connections cannot be closed without an answer.
	model.Service.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}}
	server := model.Service.NewServer()
	server.Config.Handler = &gate{next: server.Config.Handler, lose: map[string]bool{}, count: map[string]int{}}
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin) // ends with the test
}
