// SPDX-License-Identifier: Apache-2.0
import type { RefObject } from 'preact'
import { useEffect, useMemo, useRef, useState } from 'preact/hooks'
import type { FaultEffect, FaultEntry, FaultStatusView, FiringItem } from '../../../api/schemas/faults.ts'
import type { FieldError } from '../../../api/schemas/problem.ts'
import { type ApiError, call } from '../api.ts'
import { effectRows } from '../faultEffect.ts'
import { bytes, clock, count, counted } from '../format.ts'
import { useLoaded } from '../hooks.ts'
import { subscribe } from '../live.ts'
import { startDialog } from '../machine.tsx'
import { ruleText } from '../ruleText.ts'
import { shortcut } from '../shortcuts.ts'
import { inspectable, running, status } from '../store.ts'
import {
  attempt,
  Button,
  Choice,
  Empty,
  Failure,
  Load,
  Panel,
  Scroll,
  Tag,
  type Tone,
  toast,
  verdictTone,
  When,
} from '../ui.tsx'

/** Points of rules, in the colours of whose they are. */
const KINDS: Readonly<Record<string, Tone>> = {
  register: 'host',
  hardware: 'hw',
  command: 'host',
  table: 'hyp',
  translate: 'hw',
  event: 'bad',
  pages: 'hyp',
  transport: 'plain',
  machine: 'plain',
}

const STATES = {
  waiting: ['warn', 'has not fired'],
  firing: ['bad', 'fired, and may again'],
  spent: ['plain', 'has fired as often as it may'],
} as const satisfies Record<string, readonly [Tone, string]>

const EXAMPLE = ruleText([
  {
    name: 'my-fault',
    where: { at: 'register', register: 'ARM_SMMU_CMDQ_CONS', access: 'read' },
    when: { skip: 10, times: 3 },
    what: { do: 'freeze' },
  },
])
const KEPT = 500

const kindsOf = (entry: FaultEntry): string[] => [...new Set(entry.rules.map(({ rule }) => rule.where.at))]

export function Faults() {
  const catalogue = useLoaded(() => call('GET /faults/catalogue'), 0, [])
  const firings = useFirings()
  const run = status.value?.run
  const armed = useLoaded(() => call('GET /faults'), 1_000, [run, inspectable.value])
  const effect = useLoaded(() => call('GET /faults/effect'), 2_000, [run, inspectable.value])
  const [chosen, setChosen] = useState<string>()
  const entry = catalogue.data?.find(({ name }) => name === chosen)
  const reload = () => {
    armed.reload()
    effect.reload()
  }
  return (
    <div class="view split faults-view">
      <div class="stack">
        <Load from={catalogue}>
          {entries => <Catalogue entries={entries} chosen={chosen} choose={setChosen} armed={armed.data} />}
        </Load>
        <Arm entry={entry} reload={reload} />
      </div>
      <div class="stack">
        <Panel
          title="Armed"
          flush
          class="armed"
          side={
            armed.data &&
            armed.data.rules.length > 0 && (
              <>
                <span class="muted">seed {armed.data.seed}</span>
                <Button
                  class="small"
                  tone="danger"
                  onClick={() => void attempt(() => call('DELETE /faults'), 'Nothing is armed any more').then(reload)}
                >
                  Disarm
                </Button>
              </>
            )
          }
        >
          <Load from={armed}>{now => <Armed now={now} reload={reload} />}</Load>
        </Panel>
        <Panel
          title="Before and since"
          flush
          class="effect"
          side={effect.data && <span class="muted">{effectTimes(effect.data)}</span>}
        >
          <Load from={effect}>
            {now =>
              now === null ? (
                <Empty title="Nothing to compare yet">
                  What is counted before rules are armed stands here beside what is counted since.
                </Empty>
              ) : (
                <Effect effect={now} />
              )
            }
          </Load>
        </Panel>
        <Firings list={firings} />
      </div>
    </div>
  )
}

/** What fired in the current run, oldest first. */
function useFirings(): readonly FiringItem[] {
  const [list, setList] = useState<readonly FiringItem[]>([])
  useEffect(
    () =>
      subscribe(
        'firings',
        {
          items: items => setList(former => [...former, ...items].slice(-KEPT)),
          restarted: () => setList([]),
        },
        { last: KEPT, lag: KEPT },
      ),
    [],
  )
  const since = status.value?.startedAt ?? ''
  return useMemo(() => list.filter(({ at }) => at >= since), [list, since])
}

function Catalogue(props: {
  entries: readonly FaultEntry[]
  chosen: string | undefined
  choose: (name: string) => void
  armed: FaultStatusView | undefined
}) {
  const { entries, chosen, choose } = props
  const [text, setText] = useState('')
  const [kind, setKind] = useState('')
  const search = useRef<HTMLInputElement>(null)
  const list = useRef<HTMLUListElement>(null)
  const shown = useMemo(() => {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean)
    return entries.filter(entry => {
      const { name, summary, why, expect } = entry
      const haystack = [name, summary, why, ...expect, ...entry.rules.map(rule => rule.text)].join(' ').toLowerCase()
      return (kind === '' || kindsOf(entry).includes(kind)) && words.every(word => haystack.includes(word))
    })
  }, [entries, text, kind])
  const kinds = useMemo(() => Object.keys(KINDS).filter(at => entries.some(e => kindsOf(e).includes(at))), [entries])
  const move = (by: number) => {
    const at = shown.findIndex(({ name }) => name === chosen)
    const next = shown[Math.min(shown.length - 1, Math.max(0, at < 0 ? 0 : at + by))]
    if (next !== undefined) choose(next.name)
  }
  const latest = useRef(move)
  latest.current = move
  useEffect(() => {
    const ends = [
      shortcut('/', 'Go to the filter', () => search.current?.focus()),
      shortcut('j', 'Next fault', () => latest.current(1)),
      shortcut('k', 'Previous fault', () => latest.current(-1)),
    ]
    return () => {
      for (const end of ends) end()
    }
  }, [])
  useEffect(() => reveal(list), [chosen])
  return (
    <Panel
      title="Catalogue"
      flush
      class="grow"
      side={
        <span class="muted" role="status">
          {shown.length === entries.length ? '' : `${shown.length} of `}
          {counted(entries.length, 'fault')}
        </span>
      }
    >
      <div class="filters">
        <input
          ref={search}
          type="search"
          aria-label="Filter faults by text"
          placeholder="Filter by any text  (/)"
          value={text}
          onInput={e => setText(e.currentTarget.value)}
        />
        <select aria-label="Kind" value={kind} onChange={e => setKind(e.currentTarget.value)}>
          <option value="">any kind</option>
          {kinds.map(at => (
            <option key={at}>{at}</option>
          ))}
        </select>
      </div>
      {shown.length === 0 ? (
        <Empty title="No fault matches" />
      ) : (
        <ul class="scroll fault-list" ref={list} aria-label="Faults">
          {shown.map(entry => (
            <li key={entry.name}>
              <button
                type="button"
                class={entry.name === chosen ? 'selected' : ''}
                aria-pressed={entry.name === chosen}
                onClick={() => choose(entry.name)}
              >
                <span class="fault-name">
                  <b class="mono">{entry.name}</b>
                  {kindsOf(entry).map(at => (
                    <Tag key={at} tone={KINDS[at] ?? 'plain'}>
                      {at}
                    </Tag>
                  ))}
                </span>
                <small>{entry.summary}</small>
              </button>
            </li>
          ))}
        </ul>
      )}
    </Panel>
  )
}

const reveal = (list: RefObject<HTMLElement | null>): void =>
  list.current?.querySelector('[aria-pressed=true]')?.scrollIntoView({ block: 'nearest' })

function Arm({ entry, reload }: { entry: FaultEntry | undefined; reload: () => void }) {
  const [from, setFrom] = useState<'catalogue' | 'own'>('catalogue')
  const [text, setText] = useState(EXAMPLE)
  const [seed, setSeed] = useState('1')
  const [error, setError] = useState<ApiError>()
  useEffect(() => {
    setError(undefined)
    if (entry !== undefined) setFrom('catalogue')
  }, [entry])
  const possible = inspectable.value && (from === 'own' ? text.trim() !== '' : entry !== undefined)
  const arm = async () => {
    const what = from === 'own' ? { text } : { faults: [entry?.name ?? ''] }
    try {
      await call('POST /faults', { body: { ...what, seed: Number(seed) } })
      setError(undefined)
      toast(from === 'own' ? 'The rules are armed' : `${entry?.name} is armed`)
      reload()
    } catch (problem) {
      setError(problem as ApiError)
    }
  }
  return (
    <Panel
      title="Arm"
      class="arm"
      side={
        <Choice
          label="What to arm"
          value={from}
          options={[
            ['catalogue', 'From the catalogue'],
            ['own', 'Own rules'],
          ]}
          change={value => {
            setFrom(value)
            setError(undefined)
          }}
        />
      }
    >
      <Scroll label="Arm" class="arm-body">
        {from === 'own' ? (
          <Own text={text} setText={setText} errors={error?.errors ?? []} />
        ) : entry === undefined ? (
          <Empty title="Choose a fault">
            Click one, or walk with <kbd>j</kbd> and <kbd>k</kbd>. Here is what it simulates, and what should come of
            it.
          </Empty>
        ) : (
          <Entry entry={entry} />
        )}
        {error?.errors.every(({ line }) => line === undefined) && <Failure error={error} />}
      </Scroll>
      <form
        class="toolbar"
        onSubmit={e => {
          e.preventDefault()
          void arm()
        }}
      >
        <label class="check" title="of what rules leave to chance">
          <span class="muted">Seed</span>
          <input
            type="number"
            class="seed"
            required
            min="0"
            max="4294967295"
            value={seed}
            onInput={e => setSeed(e.currentTarget.value)}
          />
        </label>
        <Button tone="primary" type="submit" disabled={!possible}>
          Arm
        </Button>
        {from === 'catalogue' && entry !== undefined && (
          <Button
            local
            onClick={() => {
              setText(ruleText(entry.rules.map(({ rule }) => rule)))
              setFrom('own')
              setError(undefined)
            }}
          >
            Change its rules
          </Button>
        )}
        {!running.value && (
          <Button
            onClick={() => {
              startDialog.value = true
            }}
          >
            Start a machine
          </Button>
        )}
      </form>
    </Panel>
  )
}

function Entry({ entry }: { entry: FaultEntry }) {
  const { boot, ...rest } = entry.session
  const asks = Object.entries(rest).map(([name, value]) => `${name} ${String(value)}`)
  return (
    <>
      <h3 class="mono">{entry.name}</h3>
      <p>{entry.summary}</p>
      <p>
        <span class="muted">Expected </span>
        {entry.expect.map(verdict => (
          <Tag key={verdict} tone={verdictTone(verdict)}>
            {verdict}
          </Tag>
        ))}
        <span class="muted">{entry.why}</span>
      </p>
      <ul class="rule-list">
        {entry.rules.map(({ name, text }) => (
          <li key={name}>
            <code>{name}</code> {text}
          </li>
        ))}
      </ul>
      {boot === 'fresh' && (
        <p class="hint">It acts during boot: arm it, then reset the machine. Rules outlive a reset.</p>
      )}
      {asks.length > 0 && <p class="hint">A session of it asks for {asks.join(', ')}.</p>}
    </>
  )
}

/** Rules as text, with what is wrong beside their lines. */
function Own(props: { text: string; setText: (text: string) => void; errors: readonly FieldError[] }) {
  const { text, setText, errors } = props
  const area = useRef<HTMLTextAreaElement>(null)
  const numbers = useRef<HTMLDivElement>(null)
  const wrong = new Set(errors.map(({ line }) => line))
  const jump = ({ line = 1, column = 1 }: FieldError) => {
    const at = text.split('\n', line - 1).reduce((sum, l) => sum + l.length + 1, 0) + column - 1
    area.current?.focus()
    area.current?.setSelectionRange(at, at)
  }
  return (
    <>
      <div class="editor">
        <div class="numbers" ref={numbers} aria-hidden="true">
          {text.split('\n').map((_, i) => (
            <i key={i} class={wrong.has(i + 1) ? 'wrong' : ''}>
              {i + 1}
            </i>
          ))}
        </div>
        <textarea
          ref={area}
          aria-label="Rules, YAML or JSON"
          aria-invalid={errors.length > 0}
          aria-describedby="rule-errors"
          spellcheck={false}
          wrap="off"
          value={text}
          onInput={e => setText(e.currentTarget.value)}
          onScroll={e => {
            if (numbers.current) numbers.current.scrollTop = e.currentTarget.scrollTop
          }}
        />
      </div>
      <ul class="rule-errors" id="rule-errors" role="alert">
        {errors.map((error, i) => (
          <li key={i}>
            <button type="button" class="as-link mono" onClick={() => jump(error)}>
              {error.line}:{error.column}
            </button>
            <span>{error.message}</span>
          </li>
        ))}
      </ul>
    </>
  )
}

function Armed({ now, reload }: { now: FaultStatusView; reload: () => void }) {
  if (now.rules.length === 0) {
    return running.value ? (
      <Empty title="Nothing is armed">A rule fires when what it is about takes place in the machine.</Empty>
    ) : (
      <Empty title="No machine is running">Faults are armed in a machine that runs.</Empty>
    )
  }
  return (
    <Scroll label="Armed rules">
      <table class="data">
        <thead>
          <tr>
            <th>State</th>
            <th>Rule</th>
            <th class="num">Matches</th>
            <th class="num">Fired</th>
            <th>
              <span class="hidden">Fire</span>
            </th>
          </tr>
        </thead>
        <tbody>
          {now.rules.map(({ rule, text, at, state, matches, fired }) => (
            <tr key={rule}>
              <td>
                <Tag tone={STATES[state][0]} title={STATES[state][1]}>
                  {state}
                </Tag>
              </td>
              <td>
                <code>{rule}</code>
                <small class="rule-text">{text}</small>
              </td>
              <td class="num">{count(matches)}</td>
              <td class={`num ${fired > 0 ? 'bad-text' : ''}`}>{count(fired)}</td>
              <td class="num">
                {at === 'machine' && (
                  <Button
                    class="small"
                    aria-label={`Fire ${rule} now`}
                    onClick={() =>
                      void attempt(() => call('POST /faults/:rule/fire', { params: { rule } }), `${rule} fired`).then(
                        reload,
                      )
                    }
                  >
                    Fire now
                  </Button>
                )}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  )
}

const span = (s: number): string => (s < 120 ? `${s.toFixed(s < 10 ? 1 : 0)} s` : `${(s / 60).toFixed(0)} min`)

const effectTimes = ({ before, since, over }: FaultEffect): string =>
  `${span(before.seconds)} before ${clock(since.from)} by the server’s clock, ${span(since.seconds)} ${over ? 'armed' : 'since'}`

function Effect({ effect }: { effect: FaultEffect }) {
  const shown = (value: number | null, unit: 'count' | 'bytes') =>
    value === null ? '–' : unit === 'bytes' ? bytes(value) : count(value)
  const rate = (value: number | null, unit: 'count' | 'bytes') => {
    if (value === null || value === 0) return ''
    if (unit === 'bytes') return bytes(Math.round(value))
    return value >= 10 ? count(Math.round(value)) : value.toFixed(value < 0.1 ? 3 : 1)
  }
  return (
    <Scroll label="Before and since">
      <table class="data">
        <thead>
          <tr>
            <th>Counted</th>
            <th class="num">Before</th>
            <th class="num">a second</th>
            <th class="num">Since</th>
            <th class="num">a second</th>
            <th>
              <span class="hidden">Change</span>
            </th>
          </tr>
        </thead>
        <tbody>
          {effectRows(effect).map(({ name, unit, before, since, rates, change, bad }) => (
            <tr key={name} class={change === 'new' && bad ? 'hit' : ''}>
              <td>{name}</td>
              <td class="num">{shown(before, unit)}</td>
              <td class="num muted">{rate(rates[0], unit)}</td>
              <td class={`num ${bad && since ? 'bad-text' : ''}`}>{shown(since, unit)}</td>
              <td class="num muted">{rate(rates[1], unit)}</td>
              <td>{change !== 'none' && <Tag tone={change === 'new' && !bad ? 'plain' : 'warn'}>{change}</Tag>}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  )
}

function Firings({ list }: { list: readonly FiringItem[] }) {
  return (
    <Panel
      title="Firings"
      flush
      class="grow firings"
      side={
        <span class="muted" role="status">
          {count(list.length)}
          {list.length === KEPT && ' newest'}
        </span>
      }
    >
      {list.length === 0 ? (
        <Empty title="Nothing fired yet">Each firing appears here, with the trap that it belongs to.</Empty>
      ) : (
        <Scroll label="What fired">
          <table class="data">
            <thead>
              <tr>
                <th class="num">Time</th>
                <th>Rule</th>
                <th>What was done</th>
                <th class="num">Trap</th>
              </tr>
            </thead>
            <tbody>
              {list.toReversed().map(({ id, rule, n, trap, at, time, what }) => (
                <tr key={id}>
                  <td class="num muted">
                    <When at={at} time={time} />
                  </td>
                  <td>
                    <code>{rule}</code> <span class="muted">{n}</span>
                  </td>
                  <td>{what}</td>
                  <td class="num">
                    {trap > 0 ? (
                      <a href={`#/traps?trap=${trap}`} aria-label={`Trap ${trap}`}>
                        {trap}
                      </a>
                    ) : (
                      <span class="muted">between</span>
                    )}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      )}
    </Panel>
  )
}
