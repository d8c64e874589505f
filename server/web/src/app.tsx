// SPDX-License-Identifier: Apache-2.0
import type { JSX } from 'preact'
import { useEffect, useRef, useState } from 'preact/hooks'
import { call, locked, setToken } from './api.ts'
import { count } from './format.ts'
import { HeldBar } from './held.tsx'
import { connection } from './live.ts'
import { MachineControls, StartDialog } from './machine.tsx'
import { Opening, RecordedBar } from './recorded/bar.tsx'
import { alone, recording } from './recorded/open.ts'
import { shortcut, shortcuts } from './shortcuts.ts'
import {
  badEnd,
  clockMode,
  go,
  held,
  machineState,
  offered,
  rate,
  route,
  running,
  smmu,
  stateWord,
  status,
  theme,
  toggleClock,
  toggleTheme,
  VIEWS,
  type View,
} from './store.ts'
import { attempt, Button, Dialog, Field, Tag, Toasts } from './ui.tsx'
import { Attack } from './views/attack.tsx'
import { Breakpoints } from './views/breakpoints.tsx'
import { Console } from './views/console.tsx'
import { El2 } from './views/el2.tsx'
import { Faults } from './views/faults.tsx'
import { Memory } from './views/memory.tsx'
import { Overview } from './views/overview.tsx'
import { Queues } from './views/queues.tsx'
import { Reference } from './views/reference.tsx'
import { Runs } from './views/runs.tsx'
import { Streams } from './views/streams.tsx'
import { Translation } from './views/translation.tsx'
import { Traps } from './views/traps.tsx'

const PAGES: Readonly<Record<View, () => JSX.Element | null>> = {
  overview: Overview,
  traps: Traps,
  queues: Queues,
  streams: Streams,
  translation: Translation,
  memory: Memory,
  console: Console,
  breakpoints: Breakpoints,
  faults: Faults,
  el2: El2,
  attack: Attack,
  runs: Runs,
  reference: Reference,
}

/** 1 to 9, then 0, then a and r. */
const viewKey = (index: number): string => '1234567890ar'.charAt(index)

export function App() {
  const [help, setHelp] = useState(false)
  useEffect(() => {
    const ends = [
      ...VIEWS.map(([id, name], i) => shortcut(viewKey(i), name, () => go(id))),
      shortcut('t', 'Dark or light', toggleTheme),
      shortcut('c', "The guest's clock or the server's", toggleClock),
      shortcut('b', 'Hold the next trap', () => {
        if (running.peek() && held.peek() === null)
          void attempt(() => call('POST /break', { body: {} }), 'The next trap will be held')
      }),
      shortcut('?', 'This help', () => setHelp(true)),
    ]
    return () => {
      for (const end of ends) end()
    }
  }, [])
  if (locked.value) return <Locked />
  const view = offered(route.value.view) ? route.value.view : 'overview'
  const Page = PAGES[view]
  return (
    <div class="app">
      <Rail view={view} help={() => setHelp(true)} />
      <div class="main">
        <Bar />
        <RecordedBar />
        <Opening />
        <HeldBar />
        {connection.value === 'lost' && recording.value === undefined && (
          <div class="lost" role="alert">
            The connection to the server is lost. Trying again; what is shown may be old.
          </div>
        )}
        <main id="main">
          <h1 class="hidden">{VIEWS.find(([id]) => id === view)?.[1] ?? 'Behaviour reference'}</h1>
          <Page />
        </main>
      </div>
      {!alone && <StartDialog />}
      <Dialog title="Keyboard" open={help} close={() => setHelp(false)}>
        <dl class="keys">
          {shortcuts.value.map(({ keys, text }) => (
            <div key={keys}>
              <dt>
                <kbd>{keys === ' ' ? 'space' : keys}</kbd>
              </dt>
              <dd>{text}</dd>
            </div>
          ))}
        </dl>
      </Dialog>
      <Toasts />
    </div>
  )
}

function Rail({ view, help }: { view: View; help: () => void }) {
  const rail = useRef<HTMLElement>(null)
  // In a narrow window the views are a row that scrolls.
  useEffect(() => rail.current?.querySelector('[aria-current]')?.scrollIntoView({ inline: 'nearest' }), [view])
  return (
    <nav class="rail" aria-label="Views" ref={rail}>
      <a class="brand" href="#/overview">
        smmu<b>cosim</b>
      </a>
      <ul>
        {VIEWS.map(
          ([id, name], i) =>
            offered(id) && (
              <li key={id}>
                <a href={`#/${id}`} aria-current={id === view ? 'page' : undefined}>
                  <span>{name}</span>
                  <kbd>{viewKey(i)}</kbd>
                </a>
              </li>
            ),
        )}
      </ul>
      <div class="rail-foot">
        <a href="#/reference" aria-current={view === 'reference' ? 'page' : undefined} title="Behaviour reference">
          Rules
        </a>
        {!alone && (
          <a href="/docs" target="_blank" rel="noreferrer">
            API
          </a>
        )}
        <button type="button" onClick={toggleTheme} title="Dark or light theme">
          {theme.value === 'dark' ? 'Light' : 'Dark'}
        </button>
        <button
          type="button"
          onClick={toggleClock}
          title="Which clock is shown: the guest's virtual one, or the server's"
        >
          {clockMode.value === 'guest' ? 'Guest time' : 'Clock time'}
        </button>
        <button type="button" onClick={help} title="Keyboard shortcuts">
          Keys
        </button>
      </div>
    </nav>
  )
}

function Bar() {
  const now = status.value
  const state = machineState.value
  const end = badEnd.value
  const smmus = now?.machine?.smmus ?? []
  const quirks = now?.options?.quirks ?? []
  return (
    <header class="bar">
      <span class={`state ${state ?? ''}`} role="status" aria-label={`Machine ${stateWord.value}`}>
        <i />
        {stateWord.value}
      </span>
      {end !== undefined && (
        <Tag tone="bad" title={end.message}>
          {end.outcome}
        </Tag>
      )}
      {machineState.value !== 'off' && now?.guest != null && (
        <Tag tone="bad" title="The console says more.">
          guest {now.guest}
        </Tag>
      )}
      {machineState.value !== 'off' && now?.stalled != null && (
        <Tag tone="bad" title={now.stalled}>
          guest waits
        </Tag>
      )}
      {now?.notRecorded != null && (
        <Tag tone="bad" title={now.notRecorded}>
          not recorded
        </Tag>
      )}
      <span class="bar-facts">
        {now?.options && (
          <span>
            {now.options.policy ?? 'pkvm'}
            {(now.options.policy ?? 'pkvm') === 'pkvm' && <em> {now.options.until ?? 'nested'}</em>}
          </span>
        )}
        {quirks.length > 0 && (
          <Tag tone="bad" title={`Known defects: this is not ${now?.options?.policy ?? 'pkvm'} as it is`}>
            with {quirks.length === 1 ? 'quirk' : 'quirks'} {quirks.join(', ')}
          </Tag>
        )}
        {now?.options?.oracle && <Tag title="What devices reach is held against who owns the pages">oracle</Tag>}
        {now?.kernel && <span>{now.kernel}</span>}
        {running.value && now?.phase !== 'off' && <span>{now?.phase}</span>}
        {state === 'preparing' && now?.step && <span class="step">{now.step}</span>}
        {running.value && <span class="mono">{count(rate.value)} traps/s</span>}
      </span>
      {smmus.length > 1 && (
        <select aria-label="SMMU" value={smmu.value} onChange={e => (smmu.value = Number(e.currentTarget.value))}>
          {smmus.map((s, i) => (
            <option key={i} value={i}>
              SMMU {i} at {s.base}
            </option>
          ))}
        </select>
      )}
      <span class="buttons">{recording.value === undefined && !alone && <MachineControls />}</span>
    </header>
  )
}

function Locked() {
  const [text, setText] = useState('')
  return (
    <div class="locked">
      <form
        class="form"
        onSubmit={e => {
          e.preventDefault()
          setToken(text.trim())
        }}
      >
        <h1>smmu-cosim</h1>
        <p>This server needs its token. It was printed when the server started.</p>
        <Field label="Token">
          <input type="password" autocomplete="off" value={text} onInput={e => setText(e.currentTarget.value)} />
        </Field>
        <Button local tone="primary" type="submit" disabled={text.trim() === ''}>
          Open
        </Button>
      </form>
    </div>
  )
}
