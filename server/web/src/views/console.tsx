// SPDX-License-Identifier: Apache-2.0
import '@xterm/xterm/css/xterm.css'
import { FitAddon } from '@xterm/addon-fit'
import { Terminal } from '@xterm/xterm'
import { useEffect, useRef, useState } from 'preact/hooks'
import { call } from '../api.ts'
import { subscribe } from '../live.ts'
import { recording } from '../recorded/open.ts'
import { reachable, running, theme } from '../store.ts'
import { Button, Panel, toast } from '../ui.tsx'

const SCROLLBACK = 20_000
const NAME = 'Serial console'

function colours() {
  const style = getComputedStyle(document.documentElement)
  const colour = (name: string) => style.getPropertyValue(`--${name}`).trim()
  return {
    background: colour('sunken'),
    foreground: colour('text'),
    cursor: colour('hw'),
    selectionBackground: colour('select'),
  }
}

/** The content security policy lets style elements in that carry the page's nonce; the terminal makes some. */
function withNonce<T>(make: () => T): T {
  const nonce = document.querySelector<HTMLMetaElement>('meta[name=csp-nonce]')?.content ?? ''
  const original = document.createElement.bind(document)
  document.createElement = ((name: string, options?: ElementCreationOptions) => {
    const element = original(name, options)
    if (name.toLowerCase() === 'style') element.nonce = nonce
    return element
  }) as typeof document.createElement
  try {
    return make()
  } finally {
    document.createElement = original
  }
}

export function Console() {
  const box = useRef<HTMLDivElement>(null)
  const [terminal, setTerminal] = useState<Terminal | undefined>()

  useEffect(() => {
    const element = box.current
    if (element === null) return
    const fit = new FitAddon()
    const mine = withNonce(() => {
      const t = new Terminal({
        scrollback: SCROLLBACK,
        convertEol: true,
        fontFamily: getComputedStyle(document.documentElement).getPropertyValue('--mono'),
        fontSize: 13,
        theme: colours(),
        screenReaderMode: false,
      })
      t.loadAddon(fit)
      t.open(element)
      return t
    })
    // The guest's questions to its terminal (where is the cursor, what are you) are not for a page that shows the console:
    // there may be several, a real terminal beside them, and old questions in the scrollback.
    for (const final of ['n', 'c']) {
      for (const prefix of ['', '?', '>', '=']) mine.parser.registerCsiHandler({ prefix, final }, () => true)
    }
    mine.textarea?.setAttribute('aria-label', NAME)
    // Keys are sent one batch after the other, so that they arrive in order.
    let pending = ''
    let sending = false
    const send = async () => {
      if (sending || pending === '') return
      sending = true
      const text = pending.slice(0, 4096)
      pending = pending.slice(text.length)
      try {
        await call('POST /machine/console', { body: { text } })
      } catch (error) {
        pending = ''
        toast((error as Error).message, true)
      }
      sending = false
      void send()
    }
    mine.onData(text => {
      if (recording.peek() !== undefined || !reachable.peek()) return
      pending += text
      void send()
    })
    const end = subscribe(
      'console',
      {
        items(items, dropped) {
          if (dropped > 0) mine.write(`\r\n[${dropped} pieces of output are missing]\r\n`)
          mine.write(items.map(({ text }) => text).join(''))
        },
        restarted: () => mine.reset(),
      },
      { last: SCROLLBACK },
    )
    const observer = new ResizeObserver(() => fit.fit())
    observer.observe(element)
    fit.fit()
    mine.focus()
    setTerminal(mine)
    return () => {
      end()
      observer.disconnect()
      mine.dispose()
    }
  }, [])

  const shade = theme.value
  useEffect(() => {
    if (terminal) terminal.options.theme = colours()
  }, [shade, terminal])

  return (
    <div class="view column">
      <Panel
        title={NAME}
        flush
        class="grow"
        side={
          <>
            <span class="muted">
              {recording.value !== undefined
                ? 'up to the moment that is shown'
                : running.value
                  ? 'keys go to the guest'
                  : 'no machine listens'}
            </span>
            <Button local class="small" onClick={() => terminal?.clear()}>
              Clear
            </Button>
            <Button local class="small" onClick={() => terminal?.scrollToBottom()}>
              To the end
            </Button>
          </>
        }
      >
        <div class="terminal" ref={box} />
      </Panel>
    </div>
  )
}
