// An answer as it grows: OpenAI's deltas folded into a message, and the clocks that run beside it.

const SHORTEST = 1;

/** A message that nothing has arrived of. Its clock is not kept with it. */
export function newAnswer() {
  const message = { role: "assistant", content: "", reasoning: "", toolCalls: [], state: "waiting" };
  return Object.defineProperty(message, "clock", { value: { began: performance.now() } });
}

/** Folds one chunk of a stream into the message. */
export function addChunk(message, chunk) {
  if (chunk.usage) message.tokens = chunk.usage.completion_tokens;
  const choice = chunk.choices?.[0];
  if (!choice) return;
  const { reasoning_content: thoughts, content, tool_calls: calls } = choice.delta ?? {};
  if (thoughts) {
    arrived(message);
    message.clock.thinking ??= performance.now();
    message.reasoning += thoughts;
  }
  if (content || calls?.length) {
    arrived(message);
    endThoughts(message);
    message.content += content ?? "";
    for (const piece of calls ?? []) addToolCall(message.toolCalls, piece);
  }
  if (choice.finish_reason) message.finishReason = choice.finish_reason;
}

/** Ends the message, which then has its times too. */
export function endAnswer(message, state) {
  endThoughts(message);
  message.state = state;
  const { began, first, last } = message.clock;
  if (first === undefined) return;
  message.firstSeconds = (first - began) / 1000;
  // The first token's time belongs to the prompt, so the others count; pieces that came all at once tell no speed.
  if (message.tokens > 1 && last - first >= SHORTEST) message.perSecond = ((message.tokens - 1) * 1000) / (last - first);
}

/** Whether it is thinking right now. */
export function isThinking(message) {
  return message.clock?.thinking !== undefined;
}

function arrived(message) {
  message.state = "streaming";
  message.clock.last = performance.now();
  message.clock.first ??= message.clock.last;
}

function endThoughts(message) {
  if (!isThinking(message)) return;
  message.thoughtSeconds = (performance.now() - message.clock.thinking) / 1000;
  delete message.clock.thinking;
}

function addToolCall(calls, piece) {
  const call = (calls[piece.index] ??= { id: "", name: "", arguments: "" });
  if (piece.id) call.id = piece.id;
  call.name += piece.function?.name ?? "";
  call.arguments += piece.function?.arguments ?? "";
}

/** A conversation as the API takes it. */
export function apiMessages(system, messages) {
  const turns = messages.filter((message) => message.role !== "assistant" || hasContent(message)).map(apiMessage);
  return system ? [{ role: "system", content: system }, ...turns] : turns;
}

function hasContent(message) {
  return message.content !== "" || message.toolCalls.length > 0;
}

function apiMessage(message) {
  if (message.role === "user") return { role: "user", content: message.content };
  if (message.role === "tool") return { role: "tool", tool_call_id: message.callId, content: message.content };
  const turn = { role: "assistant", content: message.content };
  if (message.reasoning) turn.reasoning_content = message.reasoning;
  if (message.toolCalls.length) {
    turn.tool_calls = message.toolCalls.map(({ id, name, arguments: text }) => ({
      id,
      type: "function",
      function: { name, arguments: text },
    }));
  }
  return turn;
}
