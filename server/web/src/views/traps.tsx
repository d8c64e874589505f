// SPDX-License-Identifier: Apache-2.0
import { useCallback, useEffect, useRef, useState } from 'preact/hooks'
import type { TrapFilter, TrapRow } from '../../../api/schemas/trace.ts'
import type { Recording } from '../../../recorded/recording.ts'
import { call } from '../api.ts'
import { BY_QEMU, count, counted, delta, seconds, tenths, wallClock } from '../format.ts'
import { subscribe } from '../live.ts'
import { moment, recording, seek } from '../recorded/open.ts'
import { shortcut } from '../shortcuts.ts'
import { clockMode, info, machineState, route } from '../store.ts'
import { type Span, TimeLine } from '../timeLine.tsx'
import { COLUMNS, TrapDetailPanel, VERDICT_TONES } from '../trapDetail.tsx'
import { type Line, linesOf, runText, trapsBetween } from '../trapRuns.ts'
import { attempt, Button, Choice, Empty, Panel, Tag } from '../ui.tsx'
import { VirtualList } from '../virtual.tsx'

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
/** With a filter, so many of the newest are looked through; those before when they are asked for. */
const EVERYTHING = 100_000
/** Rows that are asked for at a time of those before. */
const EARLIER = 2_000

function initial(): TrapFilter {
  const { query } = route.value
  const list = (name: string) => query.get(name)?.split(',').filter(Boolean)
  const registers = list('registers')
  const commands = list('commands')
  return { ...(registers && { registers }), ...(commands && { commands }) }
}

/** As the query of GET /traps has it. */
function queryOf({ registers, commands, kinds, ...rest }: TrapFilter) {
  return {
    ...rest,
    ...(registers && { registers: registers.join() }),
    ...(commands && { commands: commands.join() }),
    ...(kinds && { kinds: kinds.join() }),
  }
}

export function Traps() {
  const [filter, setFilter] = useState<TrapFilter>(initial)
  const [paused, setPaused] = useState(false)
  const [follow, setFollow] = useState(recording.peek() === undefined)
  const [own, setOwn] = useState<number | undefined>(() => Number(route.value.query.get('row')) || undefined)
  // Of a recording the trap that is looked at is the moment of all views.
  const recorded = recording.value
  const selected = recorded === undefined ? own : moment.value || undefined
  const chosen = useRef(selected)
  chosen.current = selected
  const setSelected = useCallback((id: number | undefined) => {
    if (recording.peek() === undefined) setOwn(id)
    else if (id !== undefined) seek(id)
  }, [])
  const [missed, setMissed] = useState(0)
  const [together, setTogether] = useState(true)
  /** Runs that were opened, by the id of their first row. */
  const [opened, setOpened] = useState<ReadonlySet<number>>(new Set())
  const [connected, setConnected] = useState(false)
  const rows = useRef<TrapRow[]>([])
  /** The last row that was asked for again. */
  const asked = useRef(0)
  /** Rows from here on were looked at; undefined: those that the page was sent. */
  const looked = useRef<number | undefined>(undefined)
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
  const before = useRef<{ readonly recorded: Recording | undefined; readonly linked: number | undefined }>({
    recorded: undefined,
    linked: own,
  })
  useEffect(() => {
    const { recorded: former, linked } = before.current
    before.current = { recorded, linked: undefined }
    if (former === recorded) return
    setFollow(recorded === undefined)
    if (recorded !== undefined && linked !== undefined) seek(linked)
    setOwn(undefined)
  }, [recorded])
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
    looked.current = undefined
    // What another filter wants to see has to be fetched.
    setPaused(false)
    setMissed(0)
    setVersion(v => v + 1)
  }, [filterKey])

  // The server reads the kernel's symbols when somebody first watches: rows that came before are asked for again.
  const nameFunctions = async (tries: number) => {
    const unnamed = rows.current.find(row => row.id > asked.current && row.pc !== undefined && row.where === undefined)
    if (unnamed === undefined || tries === 0) return
    const last = rows.current.at(-1)?.id ?? 0
    const query = { ...queryOf(filter), after: unnamed.id - 1, limit: NAMED }
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
          if (rows.current.length > KEPT * 1.2) {
            rows.current = rows.current.slice(-KEPT)
            looked.current = undefined
          }
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
          looked.current = undefined
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

  const first = looked.current ?? rows.current[0]?.id
  /** Of what is no longer in the server's memory there is a recording. */
  const loadEarlier = () =>
    attempt(async () => {
      const query = { ...queryOf(filter), ...(first !== undefined && { before: first }), limit: EARLIER }
      const { items, from } = await call('GET /traps', { query })
      const oldest = rows.current[0]?.id ?? Number.POSITIVE_INFINITY
      rows.current = [...items.filter(({ id }) => id < oldest), ...rows.current]
      looked.current = first === undefined || from < first ? from : 1
      setFollow(false)
      setVersion(v => v + 1)
    })

  const narrowed = filterKey !== '{}'
  // Who asks for a register, a command or a text wants to see each.
  const { registers, commands, text } = filter
  const drawn = together && registers === undefined && commands === undefined && text === undefined
  const lines: readonly Line[] = linesOf(rows.current, run => {
    const first = run[0]?.id ?? 0
    const last = run.at(-1)?.id ?? 0
    // A link may lead into it.
    return !drawn || opened.has(first) || (selected !== undefined && selected > first && selected <= last)
  }).filter(({ kind }) => drawn || kind === 'row')
  const shown = useRef(lines)
  shown.current = lines
  const index = selected === undefined ? -1 : lines.findIndex(line => idOf(line) === selected)
  const move = useCallback((by: number) => {
    const list = shown.current
    setFollow(false)
    const current = chosen.current
    const at = current === undefined ? list.length : list.findLastIndex(line => idOf(line) === current)
    const next = list[Math.min(list.length - 1, Math.max(0, (at < 0 ? list.length : at) + by))]
    setSelected(next && idOf(next))
  }, [])
  const open = (run: readonly TrapRow[]) => {
    const first = run[0]?.id ?? 0
    setFollow(false)
    setSelected(first)
    setOpened(now => {
      const next = new Set(now)
      if (!next.delete(first)) next.add(first)
      return next
    })
  }
  useEffect(() => shortcut(' ', 'Pause or go on with the trap stream', () => setPaused(p => !p)), [])
  useEffect(() => shortcut('/', 'Go to the filter', () => search.current?.focus()), [])
  useEffect(() => shortcut('j', 'Next trap', () => move(1)), [move])
  useEffect(() => shortcut('k', 'Previous trap', () => move(-1)), [move])
  useEffect(() => shortcut('f', 'Follow the newest trap', () => setFollow(f => !f)), [])

  const list = rows.current
  const line = (i: number) => {
    const item = lines[i]
    if (item === undefined) return item
    const marked = idOf(item) === selected
    if (item.kind === 'run')
      return <RunRow key={`run ${idOf(item)}`} line={item} selected={marked && !item.open} open={open} />
    const gap = narrowed ? 0 : trapsBetween(item.before, item.row)
    return <Row key={item.row.id} line={item} gap={gap} selected={marked} select={setSelected} />
  }
  const off = machineState.value === 'off' || machineState.value === undefined
  return (
    <div class="view split">
      <Panel
        title="Trap stream"
        flush
        class="stream"
        side={
          <>
            <span class="muted" role="status">
              {paused
                ? 'paused'
                : recorded !== undefined
                  ? 'recorded'
                  : off
                    ? 'no machine'
                    : connected
                      ? 'live'
                      : 'waiting'}
              , {counted(list.length, 'row')}
              {missed > 0 && `, ${count(missed)} not shown`}
            </span>
            {recorded === undefined && (
              <>
                <Button
                  class="small"
                  disabled={first === 1 || rows.current.length >= KEPT}
                  title="Traps before these: from memory, then from the recording"
                  onClick={loadEarlier}
                >
                  Earlier
                </Button>
                <Button local class="small" keys="space" onClick={() => setPaused(p => !p)} aria-pressed={paused}>
                  {paused ? 'Go on' : 'Pause'}
                </Button>
                <Button local class="small" keys="f" onClick={() => setFollow(f => !f)} aria-pressed={follow}>
                  Follow
                </Button>
              </>
            )}
          </>
        }
      >
        <TimeLine
          at={list.find(({ id }) => id === selected)?.time ?? recorded?.moment.time}
          select={row => {
            setFollow(false)
            setSelected(row)
          }}
          only={({ from, to }: Span) => setFilter(now => ({ ...now, from, to }))}
        />
        <div class="filters">
          <input
            ref={search}
            type="search"
            aria-label="Filter by text"
            placeholder="Filter (/)"
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
          <label
            class="check"
            title="Runs of TLBI, SYNC and reads of CMDQ_CONS are one line, until you look for one of them"
          >
            <input type="checkbox" checked={together} onChange={e => setTogether(e.currentTarget.checked)} />
            collapse
          </label>
          {narrowed && (
            <Button local class="small" onClick={() => setFilter({})}>
              Clear
            </Button>
          )}
        </div>
        <div class="trap head" aria-hidden="true">
          {COLUMNS.map(([head, meaning]) => (
            <span key={head} class={NUMBERS.has(head) ? 'num' : ''} title={meaning}>
              {head}
            </span>
          ))}
        </div>
        {list.length === 0 ? (
          <Empty title={narrowed ? 'No trap matches' : 'No traps yet'}>
            {narrowed
              ? recorded === undefined
                ? `Of the newest ${count(EVERYTHING)}: "Earlier" looks at those before. New ones appear as they come.`
                : 'In this recording.'
              : 'They appear here as soon as the guest touches a register of the SMMU.'}
          </Empty>
        ) : (
          <VirtualList
            label="Traps"
            count={lines.length}
            rowHeight={ROW}
            row={line}
            follow={follow && !paused}
            unfollow={() => setFollow(false)}
            reveal={index}
          />
        )}
      </Panel>
      <TrapDetailPanel id={selected} select={setSelected} />
    </div>
  )
}

const NUMBERS: ReadonlySet<string> = new Set(['#', 'Time', 'Δ', 'µs'])

/** Id of the row that a line stands for. */
const idOf = (line: Line): number => (line.kind === 'row' ? line.row.id : (line.rows[0]?.id ?? 0))

const timeOf = ({ time, at }: TrapRow): string => {
  if (clockMode.value === 'wall' && at !== undefined) return wallClock(at)
  return time === undefined ? '' : seconds(time)
}

/** Guest time since the line above. */
const since = (before: TrapRow | undefined, { time }: TrapRow): string =>
  before?.time === undefined || time === undefined || time < before.time ? '' : delta(time - before.time)

interface RowProps {
  readonly line: Line & { readonly kind: 'row' }
  /** Traps before this one that are not shown. */
  readonly gap: number
  readonly selected: boolean
  readonly select: (id: number) => void
}

function Row({ line: { row, before, inRun }, gap, selected, select }: RowProps) {
  if (row.kind !== 'trap') {
    return (
      <li>
        <button type="button" class={`trap other ${selected ? 'selected' : ''}`} onClick={() => select(row.id)}>
          <span class="num">{row.kind}</span>
          <span class="num">{timeOf(row)}</span>
          <span class="wide">{row.text}</span>
          <span class="num">{tenths(row.us)}</span>
        </button>
      </li>
    )
  }
  const marks = [
    selected && 'selected',
    row.aborted && 'aborted',
    row.warnings.length > 0 && 'warned',
    gap > 0 && 'gap',
    inRun && 'in-run',
  ]
  const missing =
    gap > 0 ? `not shown before this one: ${counted(gap, 'trap')}; a filter shows all that match` : undefined
  return (
    <li>
      <button
        type="button"
        class={`trap ${marks.filter(Boolean).join(' ')}`}
        title={missing}
        onClick={() => select(row.id)}
      >
        <span class="num muted">{row.seq}</span>
        <span class="num muted">{timeOf(row)}</span>
        <span class="num muted">{since(before, row)}</span>
        <span class="muted">{row.cpu}</span>
        <span class={row.write ? 'access-w' : 'access-r'}>{row.write ? 'W' : 'R'}</span>
        <span class="register">{row.register}</span>
        <span>{row.value}</span>
        <Decoded row={row} />
        <span class="function muted" title={row.where ?? row.pc}>
          <bdi>{row.where}</bdi>
        </span>
        <Took us={row.us} />
      </button>
    </li>
  )
}

/** The server's time, µs; of who answered without it a narrow window has room for the last word. */
function Took({ us, together = false }: { us: number; together?: boolean }) {
  if (us === 0) {
    const words = BY_QEMU.split(' ')
    return (
      <span class="num muted" title={`${BY_QEMU} without asking, as it had been told to`}>
        <span class="roomy">{words.slice(0, -1).join(' ')} </span>
        {words.at(-1)}
      </span>
    )
  }
  return (
    <span class={`num ${together ? 'muted' : us > 1000 ? 'slow' : ''}`} title={together ? 'all together' : undefined}>
      {tenths(us)}
    </span>
  )
}

function Decoded({ row }: { row: TrapRow }) {
  return (
    <span class="decoded">
      {row.warnings.map(code => (
        <Tag key={code} tone="warn">
          {code}
        </Tag>
      ))}
      {row.aborted && <Tag tone="bad">aborted</Tag>}
      {row.commands.map(({ command, verdict, count: n, arguments: rest }, i) => (
        <Tag key={i} tone={VERDICT_TONES[verdict] ?? 'plain'} title={`${verdict}: ${command} ${rest ?? ''}`}>
          {command}
          {n > 1 && ` ×${n}`}
          {rest !== undefined && command !== 'SYNC' && <small> {n > 1 ? `${rest} …` : rest}</small>}
        </Tag>
      ))}
      {row.commands.length === 0 && <span class="muted">{row.text === row.value ? '' : row.text}</span>}
    </span>
  )
}

/** Many routine traps in one line; a click shows them. */
function RunRow(props: {
  line: Line & { readonly kind: 'run' }
  selected: boolean
  open: (run: readonly TrapRow[]) => void
}) {
  const { rows, before, open } = props.line
  const [first] = rows
  const last = rows.at(-1)
  if (first === undefined || last === undefined) return null
  const us = rows.reduce((sum, row) => sum + row.us, 0)
  return (
    <li>
      <button
        type="button"
        class={`trap run ${props.selected ? 'selected' : ''}`}
        aria-expanded={open}
        title={`Traps ${first.seq} to ${last.seq}, ${delta((last.time ?? 0) - (first.time ?? 0))} of guest time`}
        onClick={() => props.open(rows)}
      >
        <span class="num muted">{first.seq}</span>
        <span class="num muted">{timeOf(first)}</span>
        <span class="num muted">{since(before, first)}</span>
        <span>{open ? '▾' : '▸'}</span>
        <span />
        <span class="register">×{count(rows.length)}</span>
        <span class="muted" title="guest time from the first to the last">
          {delta((last.time ?? 0) - (first.time ?? 0))}
        </span>
        <span class="decoded">
          {runText(rows).map(([name, n]) => (
            <Tag key={name} tone={name === 'CONS read' ? 'plain' : 'host'}>
              {name} ×{count(n)}
            </Tag>
          ))}
        </span>
        <span class="function muted">
          <bdi>{rows.every(({ where }) => where === first.where) ? first.where : ''}</bdi>
        </span>
        <Took us={us} together />
      </button>
    </li>
  )
}
