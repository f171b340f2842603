// Renders Go templates as Ollama does: text/template, missingkey=zero, its own function `json`, and
// structs with the fields that Ollama's templates see. Standard input is
// {"cases": [{"template": text, "chat": data or null, "data": any}]}, standard output a list of
// {"text", "error"}. Only for tests.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"text/template"
)

type PropertyType []string

func (t PropertyType) String() string {
	if len(t) == 1 {
		return t[0]
	}
	return fmt.Sprintf("%v", []string(t))
}

type Properties struct{ inner map[string]Property }

func (p *Properties) ToMap() map[string]Property { return p.inner }

func (p *Properties) UnmarshalJSON(data []byte) error { return json.Unmarshal(data, &p.inner) }

type Property struct {
	AnyOf       []Property
	Type        PropertyType
	Items       any
	Description string
	Enum        []any
	Properties  *Properties
	Required    []string
}

type Parameters struct {
	Type        string
	Defs, Items any
	Required    []string
	Properties  map[string]Property
}

type Tool struct {
	Type     string
	Items    any
	Function struct {
		Name, Description string
		Parameters        Parameters
	}
}

type ToolCall struct {
	ID       string
	Function struct {
		Index     int
		Name      string
		Arguments map[string]any
	}
}

type Message struct {
	Role, Content, Thinking string
	Images                  []any
	ToolCalls               []ToolCall
	ToolName, ToolCallID    string
}

type Chat struct {
	System     string
	Messages   []*Message
	Tools      []Tool
	Response   string
	Think      bool
	ThinkLevel string
	IsThinkSet bool
}

type Case struct {
	Template string
	Chat     *Chat
	Data     any
}

func render(one Case) (string, error) {
	functions := template.FuncMap{"json": func(value any) string {
		text, _ := json.Marshal(value)
		return string(text)
	}}
	parsed, err := template.New("").Option("missingkey=zero").Funcs(functions).Parse(one.Template)
	if err != nil {
		return "", err
	}
	data := one.Data
	if chat := one.Chat; chat != nil {
		data = map[string]any{
			"System": chat.System, "Messages": chat.Messages, "Tools": chat.Tools,
			"Response": chat.Response, "Think": chat.Think, "ThinkLevel": chat.ThinkLevel,
			"IsThinkSet": chat.IsThinkSet,
		}
	}
	var written bytes.Buffer
	err = parsed.Execute(&written, data)
	return written.String(), err
}

func main() {
	var input struct{ Cases []Case }
	if err := json.NewDecoder(os.Stdin).Decode(&input); err != nil {
		panic(err)
	}
	results := []map[string]string{}
	for _, one := range input.Cases {
		text, err := render(one)
		result := map[string]string{"text": text}
		if err != nil {
			result["error"] = err.Error()
		}
		results = append(results, result)
	}
	if err := json.NewEncoder(os.Stdout).Encode(results); err != nil {
		panic(err)
	}
}
