// SPDX-License-Identifier: Apache-2.0
import { useCallback, useEffect, useMemo, useRef, useState } from 'preact/hooks'
import type { ChildView, TrapDetail, TrapFilter, TrapRow } from '../../../api/schemas/trace.ts'
import { call } from '../api.ts'
import { count, micros, seconds } from '../format.ts'
import { useLoaded } from '../hooks.ts'
import { subscribe } from '../live.ts'
import { shortcut } from '../shortcuts.ts'
import { go, info, route } from '../store.ts'
import { attempt, Button, Choice, Cited, Empty, Load, Panel, Scroll, Tag, type Tone } from '../ui.tsx'
import { VirtualList } from '../virtual.tsx'
import { EntryPair } from './entries.tsx'

const ROW = 24
/** Interval between repaints, ms: the page may run on the same machine as the guest. */
const PAINT_MS = 150
/** Rows that the page keeps. */
const KEPT = 50_000
const START = 3_000
/**
 * More rows than this, five times a second, nobody can read: without a filter the newest are shown. The server would make them, and the
 * page take them, while the guest waits for the same processors.
 */
const LAG = 100
/** Rows that are asked for again when the kernel's functions are known. */
const NAMED = 2_000
const NAMING_MS = 1_500
const NAMING_TRIES = 20
/** With a filter, all that is still in the log is looked through. */
const EVERYTHING = 100_000

function initial(): TrapFilter {
  const { query } = route.value
  const list = (name: string) => query.get(name)?.split(',').filter(Boolean)
  const registers = list('registers')
  const commands = list('commands')
  return { ...(registers && { registers }), ...(commands && { commands }) }
}

export function Traps() {
  const [filter, setFilter] = useState<TrapFilter>(initial)
  const [paused, setPaused] = useState(false)
  const [follow, setFollow] = useState(true)
  const [selected, setSelected] = useState<number | undefined>(() => Number(route.value.query.get('row')) || undefined)
  const [missed, setMissed] = useState(0)
  const [connected, setConnected] = useState(false)
  const rows = useRef<TrapRow[]>([])
  /** The last row that was asked for again. */
  const asked = useRef(0)
  const [, setVersion] = useState(0)
  const search = useRef<HTMLInputElement>(null)
  const filterKey = JSON.stringify(filter)

  // Links of other views change the route while this one is shown.
  const { query } = route.value
  const wanted = query.toString()
  const seen = useRef(wanted)
  useEffect(() => {
    if (seen.current === wanted) return
    seen.current = wanted
    setFilter(initial())
    const row = Number(query.get('row'))
    if (row) setSelected(row)
  }, [wanted, query])
  // Links that have only the number of a trap.
  const numbered = query.get('trap')
  useEffect(() => {
    if (numbered === null) return
    void attempt(async () => {
      const { id } = await call('GET /traps/numbered/:seq', { params: { seq: Number(numbered) } })
      setSelected(id)
      setFollow(false)
    })
  }, [numbered])

  useEffect(() => {
    rows.current = []
    setMissed(0)
    setVersion(v => v + 1)
  }, [filterKey])

  // The server reads the kernel's symbols when somebody first watches: rows that came before are asked for again.
  const nameFunctions = async (tries: number) => {
    const unnamed = rows.current.find(row => row.id > asked.current && row.pc !== undefined && row.where === undefined)
    if (unnamed === undefined || tries === 0) return
    const last = rows.current.at(-1)?.id ?? 0
    const { registers, commands, kinds, ...rest } = filter
    const query = {
      ...rest,
      ...(registers && { registers: registers.join() }),
      ...(commands && { commands: commands.join() }),
      ...(kinds && { kinds: kinds.join() }),
      after: unnamed.id - 1,
      limit: NAMED,
    }
    const { items } = await call('GET /traps', { query })
    if (items[0]?.where === undefined) {
      setTimeout(() => void nameFunctions(tries - 1), NAMING_MS)
      return
    }
    asked.current = last
    const named = new Map(items.map(row => [row.id, row]))
    rows.current = rows.current.map(row => named.get(row.id) ?? row)
    setVersion(v => v + 1)
  }
  useEffect(() => {
    asked.current = 0
    const timer = setTimeout(() => void nameFunctions(NAMING_TRIES).catch(() => {}), NAMING_MS)
    return () => clearTimeout(timer)
  }, [filterKey, connected])

  useEffect(() => {
    if (paused) return
    const after = rows.current.at(-1)?.id
    let scheduled = false
    return subscribe(
      'traps',
      {
        items(items, dropped) {
          setConnected(true)
          rows.current.push(...items)
          if (rows.current.length > KEPT * 1.2) rows.current = rows.current.slice(-KEPT)
          if (dropped > 0) setMissed(n => n + dropped)
          if (scheduled) return
          scheduled = true
          setTimeout(() => {
            scheduled = false
            setVersion(v => v + 1)
          }, PAINT_MS)
        },
        restarted() {
          rows.current = []
          asked.current = 0
          setVersion(v => v + 1)
        },
      },
      {
        last: filterKey === '{}' ? START : EVERYTHING,
        lag: filterKey === '{}' ? LAG : EVERYTHING,
        filter,
        ...(after !== undefined && { after }),
      },
    )
  }, [paused, filterKey])

  const index = selected === undefined ? -1 : rows.current.findIndex(row => row.id === selected)
  const move = useCallback((by: number) => {
    const list = rows.current
    setFollow(false)
    setSelected(current => {
      const at = current === undefined ? list.length : list.findIndex(row => row.id === current)
      return list[Math.min(list.length - 1, Math.max(0, (at < 0 ? list.length : at) + by))]?.id
    })
  }, [])
  useEffect(() => shortcut(' ', 'Pause or go on with the trap stream', () => setPaused(p => !p)), [])
  useEffect(() => shortcut('/', 'Go to the filter', () => search.current?.focus()), [])
  useEffect(() => shortcut('j', 'Next trap', () => move(1)), [move])
  useEffect(() => shortcut('k', 'Previous trap', () => move(-1)), [move])
  useEffect(() => shortcut('f', 'Follow the newest trap', () => setFollow(f => !f)), [])

  const list = rows.current
  const narrowed = filterKey !== '{}'
  const row = (i: number) => {
    const item = list[i]
    if (item === undefined) return item
    const gap = narrowed ? 0 : trapsBetween(list[i - 1], item)
    return <Row key={item.id} row={item} gap={gap} selected={item.id === selected} select={setSelected} />
  }
  return (
    <div class="view split">
      <Panel
        title="Trap stream"
        flush
        class="stream"
        side={
          <>
            <span class="muted" role="status">
              {paused ? 'paused' : connected ? 'live' : 'waiting'}, {count(list.length)} rows
              {missed > 0 && `, ${count(missed)} not shown`}
            </span>
            <Button class="small" keys="space" onClick={() => setPaused(p => !p)} aria-pressed={paused}>
              {paused ? 'Go on' : 'Pause'}
            </Button>
            <Button class="small" keys="f" onClick={() => setFollow(f => !f)} aria-pressed={follow}>
              Follow
            </Button>
          </>
        }
      >
        <div class="filters">
          <input
            ref={search}
            type="search"
            aria-label="Filter by text"
            placeholder="Filter by any text  (/)"
            value={filter.text ?? ''}
            onInput={e => {
              const text = e.currentTarget.value
              setFilter(({ text: _, ...rest }) => (text ? { ...rest, text } : rest))
            }}
          />
          <select
            aria-label="Register"
            value={filter.registers?.[0] ?? ''}
            onChange={e => {
              const value = e.currentTarget.value
              setFilter(({ registers: _, ...rest }) => (value ? { ...rest, registers: [value] } : rest))
            }}
          >
            <option value="">any register</option>
            {(info.value?.registers ?? []).map(({ name }) => (
              <option key={name}>{name}</option>
            ))}
          </select>
          <select
            aria-label="Command"
            value={filter.commands?.[0] ?? ''}
            onChange={e => {
              const value = e.currentTarget.value
              setFilter(({ commands: _, ...rest }) => (value ? { ...rest, commands: [value] } : rest))
            }}
          >
            <option value="">any command</option>
            {(info.value?.commands ?? []).map(name => (
              <option key={name}>{name}</option>
            ))}
          </select>
          <Choice
            label="Access"
            value={filter.access ?? 'any'}
            options={[
              ['any', 'R+W'],
              ['read', 'R'],
              ['write', 'W'],
            ]}
            change={value =>
              setFilter(({ access: _, ...rest }) => (value === 'any' ? rest : { ...rest, access: value }))
            }
          />
          <label class="check">
            <input
              type="checkbox"
              checked={filter.warnings === true}
              onChange={e => {
                const on = e.currentTarget.checked
                setFilter(({ warnings: _, ...rest }) => (on ? { ...rest, warnings: true } : rest))
              }}
            />
            warnings
          </label>
          {narrowed && (
            <Button class="small" onClick={() => setFilter({})}>
              Clear
            </Button>
          )}
        </div>
        <div class="trap head" aria-hidden="true">
          <span class="num">#</span>
          <span class="num" title="guest's virtual clock, seconds">
            Time, s
          </span>
          <span title="vCPU">C</span>
          <span />
          <span>Register</span>
          <span>Value</span>
          <span>Decoded</span>
          <span>Kernel function</span>
          <span class="num">µs</span>
        </div>
        {list.length === 0 ? (
          <Empty title={narrowed ? 'No trap matches' : 'No traps yet'}>
            {narrowed
              ? 'Of those that are still in the log. New ones appear as they come.'
              : 'They appear here as soon as the guest touches a register of the SMMU.'}
          </Empty>
        ) : (
          <VirtualList
            label="Traps"
            count={list.length}
            rowHeight={ROW}
            row={row}
            follow={follow && !paused}
            unfollow={() => setFollow(false)}
            reveal={index}
          />
        )}
      </Panel>
      <Detail id={selected} select={setSelected} />
    </div>
  )
}

const TONES: Readonly<Record<string, Tone>> = { kept: 'host', rewritten: 'warn', dropped: 'bad', own: 'hyp' }

/** Traps that are in the log between two rows of an unfiltered stream. */
function trapsBetween(before: TrapRow | undefined, { seq }: TrapRow): number {
  return before?.seq === undefined || seq === undefined ? 0 : Math.max(0, seq - before.seq - 1)
}

interface RowProps {
  readonly row: TrapRow
  /** Traps before this one that are not shown. */
  readonly gap: number
  readonly selected: boolean
  readonly select: (id: number) => void
}

function Row({ row, gap, selected, select }: RowProps) {
  if (row.kind !== 'trap') {
    return (
      <li>
        <button type="button" class={`trap other ${selected ? 'selected' : ''}`} onClick={() => select(row.id)}>
          <span class="num">{row.kind}</span>
          <span class="num">{row.time === undefined ? '' : seconds(row.time)}</span>
          <span class="wide">{row.text}</span>
          <span class="num">{row.us.toFixed(1)}</span>
        </button>
      </li>
    )
  }
  const marks = `${selected ? 'selected' : ''} ${row.aborted ? 'aborted' : ''} ${row.warnings.length > 0 ? 'warned' : ''}`
  const missing =
    gap > 0 ? `${count(gap)} traps before this one are not shown: a filter shows all that match` : undefined
  return (
    <li>
      <button
        type="button"
        class={`trap ${marks} ${gap > 0 ? 'gap' : ''}`}
        title={missing}
        onClick={() => select(row.id)}
      >
        <span class="num muted">{row.seq}</span>
        <span class="num muted">{seconds(row.time ?? 0)}</span>
        <span class="muted">{row.cpu}</span>
        <span class={row.write ? 'access-w' : 'access-r'}>{row.write ? 'W' : 'R'}</span>
        <span class="register">{row.register}</span>
        <span>{row.value}</span>
        <span class="decoded">
          {row.warnings.map(code => (
            <Tag key={code} tone="warn">
              {code}
            </Tag>
          ))}
          {row.aborted && <Tag tone="bad">aborted</Tag>}
          {row.commands.map(({ command, verdict, count: n }, i) => (
            <Tag key={i} tone={TONES[verdict] ?? 'plain'} title={verdict}>
              {command}
              {n > 1 && ` ×${n}`}
            </Tag>
          ))}
          {row.commands.length === 0 && <span class="muted">{row.text === row.value ? '' : row.text}</span>}
        </span>
        <span class="function muted" title={row.where ?? row.pc}>
          <bdi>{row.where}</bdi>
        </span>
        <span
          class={`num ${row.us > 1000 ? 'slow' : ''}`}
          title={row.us === 0 ? 'QEMU answered it by itself, as it had been told to' : undefined}
        >
          {row.us === 0 ? 'predicted' : row.us.toFixed(row.us < 1_000 ? 1 : 0)}
        </span>
      </button>
    </li>
  )
}

function Detail({ id, select }: { id: number | undefined; select: (id: number) => void }) {
  const loaded = useLoaded(async () => (id === undefined ? null : call('GET /traps/:id', { params: { id } })), 0, [id])
  return (
    <Panel title={id === undefined ? 'Trap' : <TrapTitle detail={loaded.data ?? undefined} />} class="detail" flush>
      {id === undefined ? (
        <Empty title="Choose a trap">
          Click a row, or walk with <kbd>j</kbd> and <kbd>k</kbd>. Here is what the hypervisor did for it.
        </Empty>
      ) : (
        <Scroll label="Trap" class="pad">
          <Load from={loaded}>{detail => detail && <Group detail={detail} select={select} />}</Load>
        </Scroll>
      )}
    </Panel>
  )
}

const TrapTitle = ({ detail }: { detail: TrapDetail | undefined }) => (
  <>{detail ? (detail.row.kind === 'trap' ? `Trap ${detail.row.seq}` : detail.row.kind) : 'Trap'}</>
)

function Group({ detail, select }: { detail: TrapDetail; select: (id: number) => void }) {
  const { row, children, streams, previous, following } = detail
  const bits = useMemo(() => (row.text === row.value ? [] : row.text.split(' ')), [row.text, row.value])
  return (
    <>
      <div class="trap-head">
        <div class="big mono">
          <span class={row.write ? 'access-w' : 'access-r'}>
            {row.kind === 'trap' ? (row.write ? 'write' : 'read') : ''}
          </span>{' '}
          {row.register} {row.value}
        </div>
        <div class="bits">
          {bits.map(bit => (
            <code key={bit}>{bit}</code>
          ))}
        </div>
        <dl class="facts tight">
          <div>
            <dt>Server time</dt>
            <dd>{micros(row.us)}</dd>
          </div>
          {row.time !== undefined && (
            <div>
              <dt>Guest time</dt>
              <dd>{seconds(row.time)} s</dd>
            </div>
          )}
          {row.pc && (
            <div class="whole">
              <dt>Kernel function</dt>
              <dd class="mono">{row.where ? `${row.where}, ${row.pc}` : row.pc}</dd>
            </div>
          )}
          {row.size !== undefined && row.smmu !== undefined && (
            <div>
              <dt>Width</dt>
              <dd>
                {row.size * 8} bits, SMMU {row.smmu}, CPU {row.cpu}
              </dd>
            </div>
          )}
        </dl>
        <div class="beside">
          {previous && (
            <Button class="small" onClick={() => select(previous.id)}>
              ← {previous.write ? 'W' : 'R'} {previous.value} before
            </Button>
          )}
          {following && (
            <Button class="small" onClick={() => select(following.id)}>
              {following.write ? 'W' : 'R'} {following.value} after →
            </Button>
          )}
          {streams.map(sid => (
            <Button key={sid} class="small" onClick={() => go('streams', { sid })}>
              stream 0x{sid.toString(16)}
            </Button>
          ))}
        </div>
      </div>
      {children.length === 0 ? (
        <Empty title="Decided without touching hardware or memory" />
      ) : (
        <ol class="children">
          {children.map((child, i) => (
            <li key={i} class={`child ${child.kind}`}>
              <Tag tone={childTone(child)}>{childName(child)}</Tag>
              <span class="mono">
                <Cited text={child.text} />
              </span>
              {child.us !== undefined && <span class="num muted">{micros(child.us)}</span>}
              {(child.host || child.shadow) && (
                <div class="full">
                  <EntryPair host={child.host ?? null} shadow={child.shadow ?? null} onlyDifferent />
                </div>
              )}
            </li>
          ))}
        </ol>
      )}
    </>
  )
}

const NAMES: Readonly<Record<string, string>> = { hardware: 'hw', memory: 'mem', command: 'cmd', warning: 'warn' }

function childName({ kind, verdict }: ChildView): string {
  return kind === 'command' && verdict !== undefined && verdict !== 'kept' ? verdict : (NAMES[kind] ?? kind)
}

function childTone({ kind, verdict }: ChildView): Tone {
  switch (kind) {
    case 'command':
      return TONES[verdict ?? 'kept'] ?? 'host'
    case 'hardware':
      return 'hw'
    case 'stream':
    case 'pages':
    case 'guard':
      return 'hyp'
    case 'warning':
      return 'warn'
    case 'fault':
    case 'breakpoint':
      return 'bad'
    default:
      return 'plain'
  }
}
