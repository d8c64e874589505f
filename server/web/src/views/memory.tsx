// SPDX-License-Identifier: Apache-2.0
import { useEffect, useMemo, useRef, useState } from 'preact/hooks'
import type { OwnedRange, Ownership, Reach } from '../../../api/schemas/pages.ts'
import { call } from '../api.ts'
import { bytes, hex, parseAddress } from '../format.ts'
import { useLoaded, useSize } from '../hooks.ts'
import { recording } from '../recorded/open.ts'
import { refusal } from '../refusal.ts'
import { inspectable, route, smmu, status, theme } from '../store.ts'
import { Button, Empty, Failure, Field, Panel, Scroll, Skeleton, Tag, type Tone, toast } from '../ui.tsx'
import { NoMachine } from './none.tsx'

const PAGE = 4096
/** Smallest and largest side of a cell, CSS pixels. */
const CELL = 9
const LARGEST_CELL = 28
/** Width of the addresses beside the map, and what one of them needs, CSS pixels. */
const GUTTER = 92
const LABEL = 18
/** Ranges that are looked through for the page that was refused. */
const MOST_RANGES = 20_000
const STATES: readonly (readonly [state: string, name: string, tone: Tone])[] = [
  ['owned', 'host', 'host'],
  ['shared', 'shared', 'shared'],
  ['hyp', 'hypervisor', 'hyp'],
  ['vm', 'protected VM', 'vm'],
  ['mixed', 'several', 'warn'],
]

interface Span {
  readonly from: number
  readonly to: number
}

export function Memory() {
  if (!inspectable.value) return <NoMachine what="The memory map" />
  return <MemoryMap />
}

function MemoryMap() {
  const ram = status.value?.machine?.ram ?? []
  const whole: Span = useMemo(() => {
    const first = ram[0]
    const last = ram.at(-1)
    return first && last ? { from: Number(first.base), to: Number(last.base) + last.size } : { from: 0, to: PAGE }
  }, [ram])
  const asked = parseAddress(route.value.query.get('at') ?? '')
  const [span, setSpan] = useState<Span>(() => around(asked === undefined ? undefined : Number(asked), whole))
  const [selection, setSelection] = useState<Span | undefined>()
  const { ref, width, height } = useSize<HTMLDivElement>()
  const { cell, columns, rows, pixels } = gridOf(span, width - GUTTER, height)
  const ownership = useLoaded(
    () =>
      call('GET /memory/ownership', {
        query: { from: hex(span.from), to: hex(span.to), limit: Math.min(20_000, columns * rows) },
      }),
    1_500,
    [span.from, span.to, columns * rows],
  )
  const reach = useLoaded(() => call('GET /memory/reach', { query: { smmu: smmu.value } }), 3_000, [smmu.value])

  const zoom = (factor: number, at = (span.from + span.to) / 2) => setSpan(zoomed(span, whole, factor, at))
  const size = span.to - span.from
  return (
    <div class="view split memory-view">
      <Panel
        title="Memory map"
        flush
        class="map-panel"
        side={
          <span class="legend">
            {ownership.data?.el2 != null && <span class="muted">large: the server, foot: EL2</span>}
            {STATES.map(([state, name, tone]) => (
              <Tag key={state} tone={tone}>
                {name}
              </Tag>
            ))}
            <span class="dma-key" title="mapped by the stage 1 of a device">
              DMA
            </span>
          </span>
        }
      >
        <div class="toolbar inner">
          <span class="mono">
            {hex(span.from)} – {hex(span.to)}
          </span>
          <span class="muted">
            {bytes(size)}, {bytes(cell)} a cell
          </span>
          <span class="grow" />
          <Button local class="small" onClick={() => zoom(0.25)} aria-label="Zoom in">
            +
          </Button>
          <Button
            local
            class="small"
            onClick={() => zoom(4)}
            aria-label="Zoom out"
            disabled={size >= whole.to - whole.from}
          >
            −
          </Button>
          <Button local class="small" onClick={() => setSpan(whole)}>
            Whole RAM
          </Button>
          <Button
            local
            class="small"
            disabled={selection === undefined}
            onClick={() => selection && setSpan(enclose(selection, whole))}
          >
            Zoom to selection
          </Button>
        </div>
        <div class="map" ref={ref}>
          {ownership.data === undefined ? (
            ownership.error ? (
              <Failure error={ownership.error} retry={ownership.reload} />
            ) : (
              <Skeleton rows={12} />
            )
          ) : (
            <Canvas
              span={span}
              cell={cell}
              columns={columns}
              rows={rows}
              pixels={pixels}
              ownership={ownership.data}
              reach={reach.data ?? []}
              selection={selection}
              select={setSelection}
              zoom={zoom}
            />
          )}
        </div>
      </Panel>
      <Side
        selection={selection}
        select={setSelection}
        ownership={ownership.data}
        reach={reach.data ?? []}
        changed={ownership.reload}
      />
    </div>
  )
}

interface Grid {
  /** Bytes of a cell. */
  readonly cell: number
  readonly columns: number
  readonly rows: number
  /** Side of a cell, CSS pixels. */
  readonly pixels: number
}

/**
 * Cells and columns are powers of two, so that zooming keeps borders and rows begin at round addresses. As many cells as
 * fit, as large as fits.
 */
function gridOf(span: Span, width: number, height: number): Grid {
  for (let cell = PAGE; ; cell *= 2) {
    const needed = Math.ceil((span.to - span.from) / cell)
    let best: Grid | undefined
    for (const columns of [8, 16, 32, 64, 128]) {
      const rows = Math.ceil(needed / columns)
      const pixels = Math.min(LARGEST_CELL, Math.floor(width / columns), Math.floor(height / rows))
      if (pixels > (best?.pixels ?? 0)) best = { cell, columns, rows, pixels }
    }
    if (best !== undefined && (best.pixels >= CELL || best.rows === 1)) return best
    if (needed <= 1) return { cell, columns: 8, rows: 1, pixels: CELL }
  }
}

const clampSpan = (from: number, size: number, whole: Span): Span => {
  const start = Math.min(Math.max(from, whole.from), whole.to - size)
  // A row of the map begins at a multiple of its size, as far as the span is large enough for it to matter.
  const step = Math.max(PAGE, 2 ** Math.floor(Math.log2(size / 64)))
  const aligned = Math.max(whole.from, Math.floor(start / step) * step)
  return { from: aligned, to: aligned + size }
}

function zoomed(span: Span, whole: Span, factor: number, at: number): Span {
  const before = span.to - span.from
  const wanted = Math.ceil((before * factor) / PAGE) * PAGE
  const size = Math.min(whole.to - whole.from, Math.max(64 * PAGE, wanted))
  return clampSpan(at - ((at - span.from) / before) * size, size, whole)
}

function enclose(selection: Span, whole: Span): Span {
  const size = Math.max(64 * PAGE, selection.to - selection.from)
  return clampSpan((selection.from + selection.to - size) / 2, Math.min(size, whole.to - whole.from), whole)
}

const around = (at: number | undefined, whole: Span): Span =>
  at === undefined ? whole : enclose({ from: at - 512 * PAGE, to: at + 512 * PAGE }, whole)

interface CanvasProps {
  readonly span: Span
  readonly cell: number
  readonly columns: number
  readonly rows: number
  readonly pixels: number
  readonly ownership: Ownership
  readonly reach: readonly Reach[]
  readonly selection: Span | undefined
  select(span: Span): void
  zoom(factor: number, at: number): void
}

function Canvas(props: CanvasProps) {
  const { span, cell, columns, rows, pixels, ownership, reach, selection } = props
  const canvas = useRef<HTMLCanvasElement>(null)
  const anchor = useRef<number | undefined>(undefined)
  const [hover, setHover] = useState<{ x: number; y: number; at: number } | undefined>()
  const shade = theme.value

  useEffect(() => {
    const element = canvas.current
    const context = element?.getContext('2d')
    if (!element || !context) return
    const scale = devicePixelRatio
    element.width = columns * pixels * scale
    element.height = rows * pixels * scale
    context.scale(scale, scale)
    const style = getComputedStyle(document.documentElement)
    const colour = (name: string) => style.getPropertyValue(`--${name}`).trim()
    const fills: Record<string, string> = {
      owned: colour('map-host'),
      shared: colour('shared'),
      hyp: colour('hyp'),
      vm: colour('vm'),
      mixed: colour('warn'),
      'not RAM': colour('line'),
    }
    const total = Math.ceil((span.to - span.from) / cell)
    const paint = (first: number, last: number, fill: string, inset: number) => {
      context.fillStyle = fill
      for (let i = Math.max(0, first); i < Math.min(last, total, columns * rows); i++) {
        const x = (i % columns) * pixels
        const y = Math.floor(i / columns) * pixels
        context.fillRect(x + inset, y + inset, pixels - 1 - 2 * inset, pixels - 1 - 2 * inset)
      }
    }
    const cells = (base: number, size: number): [number, number] => [
      Math.floor((base - span.from) / cell),
      Math.ceil((base + size - span.from) / cell),
    ]
    // The host's first: what is smaller than a cell must not hide under it.
    const order = ['not RAM', 'owned', 'mixed', 'hyp', 'shared', 'vm']
    for (const range of [...ownership.ranges].sort((a, b) => order.indexOf(a.state) - order.indexOf(b.state))) {
      paint(...cells(Number(range.base), range.size), fills[range.state] ?? colour('line'), 0)
    }
    // EL2's own word of each cell, at its foot.
    const foot = Math.max(2, Math.floor(pixels / 4))
    for (const range of [...(ownership.el2 ?? [])].sort((a, b) => order.indexOf(a.state) - order.indexOf(b.state))) {
      context.fillStyle = fills[range.state] ?? colour('line')
      const [first, last] = cells(Number(range.base), range.size)
      for (let i = Math.max(0, first); i < Math.min(last, total, columns * rows); i++) {
        context.fillRect((i % columns) * pixels, (Math.floor(i / columns) + 1) * pixels - 1 - foot, pixels - 1, foot)
      }
    }
    const dot = colour('dma')
    for (const { mapped } of reach)
      for (const m of mapped) paint(...cells(Number(m.base), m.size), dot, Math.floor(pixels / 3))
    if (selection) {
      const [first, last] = cells(selection.from, selection.to - selection.from)
      context.globalAlpha = 0.45
      paint(first, last, colour('text'), 0)
      context.globalAlpha = 1
    }
  }, [span, cell, columns, rows, pixels, ownership, reach, selection, shade])

  const cellAt = (event: MouseEvent): number => {
    const box = canvas.current?.getBoundingClientRect()
    const x = Math.floor((event.clientX - (box?.left ?? 0)) / pixels)
    const y = Math.floor((event.clientY - (box?.top ?? 0)) / pixels)
    return y * columns + Math.min(columns - 1, Math.max(0, x))
  }
  const address = (index: number) => span.from + index * cell
  const pick = (a: number, b: number) => {
    const from = Math.max(span.from, address(Math.min(a, b)))
    props.select({ from, to: Math.min(span.to, address(Math.max(a, b) + 1)) })
  }
  const inside = (index: number) => index >= 0 && address(index) < span.to
  /** Arrows move the selection by a cell or a row, with Shift they change its end. */
  const key = (event: KeyboardEvent) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key]
    if (step !== undefined) {
      const first = selection ? Math.floor((selection.from - span.from) / cell) : 0
      const last = selection ? Math.ceil((selection.to - span.from) / cell) - 1 : 0
      if (event.shiftKey && inside(last + step)) pick(first, Math.max(first, last + step))
      else if (!event.shiftKey && inside(selection ? first + step : 0))
        pick(selection ? first + step : 0, selection ? first + step : 0)
    } else if (event.key === '+' || event.key === '-') {
      props.zoom(event.key === '+' ? 0.25 : 4, selection ? selection.from : (span.from + span.to) / 2)
    } else return
    event.preventDefault()
  }
  const found = hover && describeAt(hover.at, cell, ownership, reach)
  const every = 2 ** Math.ceil(Math.log2(Math.max(1, LABEL / pixels)))
  return (
    <>
      <ol class="axis" aria-hidden="true">
        {Array.from({ length: Math.ceil(rows / every) }, (_, i) => (
          <li key={i} style={{ top: `${i * every * pixels}px`, lineHeight: `${pixels}px` }}>
            {hex(address(i * every * columns))}
          </li>
        ))}
      </ol>
      <canvas
        ref={canvas}
        tabIndex={0}
        role="img"
        aria-label={`Map of ${hex(span.from)} to ${hex(span.to)}; arrow keys select, plus and minus zoom`}
        style={{ width: `${columns * pixels}px`, height: `${rows * pixels}px`, marginLeft: `${GUTTER}px` }}
        onKeyDown={key}
        onPointerDown={e => {
          const at = cellAt(e)
          if (!inside(at)) return
          anchor.current = at
          e.currentTarget.setPointerCapture(e.pointerId)
          pick(at, at)
        }}
        onPointerMove={e => {
          const at = cellAt(e)
          setHover(inside(at) ? { x: e.offsetX, y: e.offsetY, at: address(at) } : undefined)
          if (anchor.current !== undefined && inside(at)) pick(anchor.current, at)
        }}
        onPointerUp={() => {
          anchor.current = undefined
        }}
        onPointerLeave={() => setHover(undefined)}
        onDblClick={e => props.zoom(0.125, address(cellAt(e)))}
        onWheel={e => {
          e.preventDefault()
          props.zoom(e.deltaY < 0 ? 0.5 : 2, address(cellAt(e)))
        }}
      />
      {hover && found && (
        <div
          class="tooltip"
          style={{
            left: `${GUTTER + hover.x + (hover.x > columns * pixels - 260 ? -250 : 14)}px`,
            top: `${hover.y + 14}px`,
          }}
        >
          <b class="mono">{hex(hover.at)}</b> <span>{found.state}</span>
          {found.devices.map(line => (
            <div key={line} class="mono">
              {line}
            </div>
          ))}
        </div>
      )}
    </>
  )
}

function describeAt(at: number, size: number, ownership: Ownership, reach: readonly Reach[]) {
  const here = (ranges: readonly OwnedRange[]) =>
    ownerName(ranges.find(r => at < Number(r.base) + r.size && at + size > Number(r.base)))
  const devices = reach
    .flatMap(({ device, sid, mapped }) =>
      mapped
        .filter(m => at < Number(m.base) + m.size && at + size > Number(m.base))
        .map(m => `${device?.name ?? hex(sid)} at IOVA ${m.iova}`),
    )
    .slice(0, 4)
  const server = here(ownership.ranges)
  const el2 = ownership.el2 === null ? undefined : here(ownership.el2)
  return { state: el2 === undefined ? server : `${server}; EL2 says ${el2}`, devices }
}

function ownerName(range: OwnedRange | undefined): string {
  const [, name = 'not RAM'] = STATES.find(([state]) => state === range?.state) ?? []
  return range?.vm ? `${name} ${range.vm}` : name
}

/** Bytes by owner. */
function sums(ranges: readonly OwnedRange[]): [name: string, tone: Tone, size: number][] {
  const found = new Map<string, [tone: Tone, size: number]>()
  for (const range of ranges) {
    const name = ownerName(range)
    const [, , tone = 'plain' as Tone] = STATES.find(([state]) => state === range.state) ?? []
    found.set(name, [tone, (found.get(name)?.[1] ?? 0) + range.size])
  }
  return [...found].map(([name, [tone, size]]) => [name, tone, size])
}

/** What the fields say; undefined: nothing that could be selected. */
function spanOf(base: string, pages: string): Span | undefined {
  const at = Number(parseAddress(base) ?? Number.NaN)
  const count = Number(pages)
  const valid = Number.isSafeInteger(at) && at % PAGE === 0 && Number.isInteger(count) && count > 0
  return valid ? { from: at, to: at + count * PAGE } : undefined
}

function Side(props: {
  selection: Span | undefined
  select(span: Span | undefined): void
  ownership: Ownership | undefined
  reach: readonly Reach[]
  changed(): void
}) {
  const { selection, ownership, reach } = props
  const [base, setBase] = useState('')
  const [pages, setPages] = useState('1')
  const [vm, setVm] = useState('1')
  const [busy, setBusy] = useState(false)
  const [refused, setRefused] = useState<string | undefined>()
  const given = spanOf(base, pages)
  // What is picked on the map stands in the fields, and what is typed into them is selected.
  useEffect(() => {
    if (!selection || (given?.from === selection.from && given.to === selection.to)) return
    setBase(hex(selection.from))
    setPages(String((selection.to - selection.from) / PAGE))
  }, [selection])
  useEffect(() => setRefused(undefined), [selection, vm])
  const typed = (address: string, count: string) => {
    setBase(address)
    setPages(count)
    props.select(spanOf(address, count))
  }
  const change = async (what: 'donate' | 'reclaim') => {
    if (given === undefined) return
    const { from, to } = given
    const size = to - from
    setBusy(true)
    setRefused(undefined)
    try {
      const { ok, result } = await call(`POST /memory/${what}`, { body: { base: hex(from), size, vm: Number(vm) } })
      if (ok) toast(`${what === 'donate' ? 'Donated' : 'Reclaimed'} ${bytes(size)} at ${hex(from)}`)
      else {
        const query = { from: hex(from), to: hex(to), limit: MOST_RANGES }
        const now = await call('GET /memory/ownership', { query })
        setRefused(`The hypervisor refused: ${result}. ${refusal(what, Number(vm), result, now.ranges, reach)}`)
      }
      props.changed()
    } catch (error) {
      setRefused((error as Error).message)
    }
    setBusy(false)
  }
  const inRange = (ownership?.ranges ?? []).flatMap(r => {
    const from = Math.max(Number(r.base), selection?.from ?? 0)
    const to = Math.min(Number(r.base) + r.size, selection?.to ?? 0)
    return to > from ? [{ ...r, base: hex(from), size: to - from }] : []
  })
  const mapping = selection
    ? reach.flatMap(({ sid, device, mapped }) =>
        mapped
          .filter(m => Number(m.base) < selection.to && Number(m.base) + m.size > selection.from)
          .map(m => ({ ...m, device: device?.name ?? hex(sid), sid })),
      )
    : []
  const el2 = ownership?.el2 ?? null
  const fixed = el2 !== null || recording.value !== undefined
  const totals = [
    ...sums(ownership?.ranges ?? []).map(row => ['', ...row] as const),
    ...sums(el2 ?? []).map(row => ['EL2', ...row] as const),
  ]
  return (
    <div class="stack">
      <Panel title="Range">
        <form
          class="form"
          onSubmit={e => {
            e.preventDefault()
            props.select(given)
          }}
        >
          <Field label="Address">
            <input
              value={base}
              placeholder="0x50000000"
              aria-invalid={base !== '' && given === undefined}
              onInput={e => typed(e.currentTarget.value, pages)}
              spellcheck={false}
            />
          </Field>
          <Field label="Pages of 4 KiB">
            <input type="number" min="1" value={pages} onInput={e => typed(base, e.currentTarget.value)} />
          </Field>
          <Field label="Protected VM">
            <input type="number" min="1" value={vm} onInput={e => setVm(e.currentTarget.value)} />
          </Field>
          <div class="buttons">
            <Button
              tone="primary"
              disabled={given === undefined || busy || fixed}
              onClick={() => void change('donate')}
            >
              Donate
            </Button>
            <Button disabled={given === undefined || busy || fixed} onClick={() => void change('reclaim')}>
              Reclaim
            </Button>
          </div>
        </form>
        {refused !== undefined && (
          <p class="failure" role="alert">
            {refused}
          </p>
        )}
        <p class="hint">
          {recording.value !== undefined
            ? 'A recording cannot be changed.'
            : el2 === null
              ? 'A donated page is out of reach of vCPUs and devices until it is reclaimed, zeroed. A guest that uses it gets an abort.'
              : 'EL2 owns the pages and alone gives and takes them.'}
        </p>
      </Panel>
      <Panel title={selection ? 'In the selection' : 'In sight'} flush class="grow">
        {!selection ? (
          totals.length === 0 ? (
            <Empty title="Nothing in sight" />
          ) : (
            <table class="data">
              <tbody>
                {totals.map(([who, name, tone, size]) => (
                  <tr key={`${who} ${name}`}>
                    {el2 !== null && <td class="muted">{who === '' ? 'server' : who}</td>}
                    <td>
                      <Tag tone={tone}>{name}</Tag>
                    </td>
                    <td class="num">{bytes(size)}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          )
        ) : (
          <Scroll label="In the selection">
            <table class="data">
              <tbody>
                {inRange.slice(0, 100).map(r => {
                  const [, name = r.state, tone = 'plain' as Tone] = STATES.find(([state]) => state === r.state) ?? []
                  return (
                    <tr key={r.base}>
                      <td class="mono">{r.base}</td>
                      <td>
                        <Tag tone={tone}>{r.vm ? `VM ${r.vm}` : name}</Tag>
                      </td>
                      <td class="num">{bytes(r.size)}</td>
                    </tr>
                  )
                })}
                {mapping.slice(0, 100).map(m => (
                  <tr key={`${m.sid}-${m.iova}`}>
                    <td class="mono">{m.base}</td>
                    <td>
                      DMA <a href={`#/translation?sid=${m.sid}&iova=${m.iova}`}>{m.device}</a>
                    </td>
                    <td class="num mono">{m.iova}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </Scroll>
        )}
      </Panel>
    </div>
  )
}
