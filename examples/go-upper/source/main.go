// Upper writes each file of its input in capital letters.
package main

import (
	"bytes"
	"log"
	"os"
	"path/filepath"
)

func main() {
	entries, err := os.ReadDir("/pfs/notes")
	if err != nil {
		log.Fatal(err)
	}
	for _, entry := range entries {
		text, err := os.ReadFile(filepath.Join("/pfs/notes", entry.Name()))
		if err != nil {
			log.Fatal(err)
		}
		target := filepath.Join("/pfs/out", entry.Name())
		if err := os.WriteFile(target, bytes.ToUpper(text), 0o644); err != nil {
			log.Fatal(err)
		}
	}
}
