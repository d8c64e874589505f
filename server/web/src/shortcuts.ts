// SPDX-License-Identifier: Apache-2.0
/** Keyboard shortcuts: views register theirs while they are shown; the help lists what there is. */
import { signal } from '@preact/signals'

interface Shortcut {
  readonly keys: string
  readonly text: string
  readonly run: () => void
}

export const shortcuts = signal<readonly Shortcut[]>([])

/** @returns the way to take it back. */
export function shortcut(keys: string, text: string, run: () => void): () => void {
  const mine = { keys, text, run }
  shortcuts.value = [...shortcuts.peek(), mine]
  return () => {
    shortcuts.value = shortcuts.peek().filter(s => s !== mine)
  }
}

/** Inputs that take no text. */
const NO_TEXT: ReadonlySet<string> = new Set(['checkbox', 'radio', 'range', 'file'])

const typing = (target: EventTarget | null): boolean =>
  target instanceof HTMLInputElement
    ? !NO_TEXT.has(target.type)
    : target instanceof HTMLElement && (/^(TEXTAREA|SELECT)$/.test(target.tagName) || target.isContentEditable)

export function listenForKeys(): void {
  addEventListener('keydown', event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return
    const always = /^F\d+$/.test(event.key)
    if (!always && (typing(event.target) || document.querySelector('dialog[open]'))) return
    // A focused button or switch takes the space bar itself.
    if (event.key === ' ' && (event.target instanceof HTMLButtonElement || event.target instanceof HTMLInputElement))
      return
    const found = shortcuts.value.findLast(({ keys }) => keys === event.key)
    if (found === undefined) return
    event.preventDefault()
    found.run()
  })
}
