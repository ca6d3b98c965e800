// A small Go chat server as a competitor of `holdfast-bench chat`: every line a member sends goes to all members. Two goroutines and
// a queue of lines for each member, as is usual; a member whose queue is full is closed.
// Usage: chat-go ADDRESS:PORT THREADS
package main

import (
	"bufio"
	"fmt"
	"log"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
)

var (
	mutex   sync.RWMutex
	members = map[net.Conn]chan []byte{}
)

func broadcast(line []byte) {
	mutex.RLock()
	defer mutex.RUnlock()
	for conn, lines := range members {
		select {
		case lines <- line:
		default:
			conn.Close()
		}
	}
}

func serve(conn net.Conn) {
	lines := make(chan []byte, 16)
	mutex.Lock()
	members[conn] = lines
	mutex.Unlock()
	go func() {
		for line := range lines {
			if _, err := conn.Write(line); err != nil {
				conn.Close()
			}
		}
	}()
	reader := bufio.NewReaderSize(conn, 512)
	for {
		line, err := reader.ReadBytes('\n')
		if err != nil {
			break
		}
		broadcast(line)
	}
	mutex.Lock()
	delete(members, conn)
	mutex.Unlock()
	close(lines)
	conn.Close()
}

func main() {
	threads, err := strconv.Atoi(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	runtime.GOMAXPROCS(threads)
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening")
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go serve(conn)
	}
}
