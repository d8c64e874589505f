// SPDX-License-Identifier: Apache-2.0
import { computed, effect, type Signal, signal, untracked } from '@preact/signals'
import type { CountersView, Info, MachineState, MachineStatus, RatePoint } from '../../api/schemas/lifecycle.ts'
import type { CounterItem } from '../../api/schemas/subscriptions.ts'
import type { EventItem, WarningItem } from '../../api/schemas/trace.ts'
import { call, locked } from './api.ts'
import { connect, connection, followShown, subscribe } from './live.ts'
import { alone, recording, shown } from './recorded/open.ts'

export const VIEWS = [
  ['overview', 'Overview'],
  ['traps', 'Traps'],
  ['queues', 'Queues'],
  ['streams', 'Streams'],
  ['translation', 'Translation'],
  ['memory', 'Memory'],
  ['console', 'Console'],
  ['breakpoints', 'Breakpoints'],
  ['faults', 'Faults'],
  ['el2', 'EL2'],
  ['attack', 'Attack'],
  ['runs', 'Recordings'],
] as const
/** What a warning's rule links to has no key. */
export type View = (typeof VIEWS)[number][0] | 'reference'

/** Views of which a recording has nothing. */
const OF_MACHINES: ReadonlySet<View> = new Set(['breakpoints', 'faults', 'attack'])
export const offered = (view: View): boolean => recording.value === undefined || !OF_MACHINES.has(view)

const isView = (text: string): text is View => text === 'reference' || VIEWS.some(([id]) => id === text)

/** `#/view?name=value`: a view can be linked to, and the browser's buttons work. */
function parseHash(): { view: View; query: URLSearchParams } {
  const [path = '', query = ''] = location.hash.replace(/^#\/?/, '').split('?')
  return { view: isView(path) ? path : 'overview', query: new URLSearchParams(query) }
}

export const route = signal(parseHash())
addEventListener('hashchange', () => {
  route.value = parseHash()
})

export function go(view: View, query: Readonly<Record<string, string | number>> = {}): void {
  const search = new URLSearchParams(Object.entries(query).map(([k, v]) => [k, String(v)])).toString()
  location.hash = `/${view}${search ? `?${search}` : ''}`
}

export type Theme = 'dark' | 'light'
const THEME = 'smmu-cosim-theme'
const preferred = (): Theme => {
  const stored = localStorage.getItem(THEME)
  if (stored === 'dark' || stored === 'light') return stored
  return matchMedia('(prefers-color-scheme: light)').matches ? 'light' : 'dark'
}
export const theme = signal<Theme>(preferred())
effect(() => {
  document.documentElement.dataset.theme = theme.value
})
export function toggleTheme(): void {
  theme.value = theme.value === 'dark' ? 'light' : 'dark'
  localStorage.setItem(THEME, theme.value)
}

/** Time of the guest's virtual clock, or of the server's. */
export type Clock = 'guest' | 'wall'
const CLOCK = 'smmu-cosim-clock'
export const clockMode = signal<Clock>(localStorage.getItem(CLOCK) === 'wall' ? 'wall' : 'guest')
export function toggleClock(): void {
  clockMode.value = clockMode.value === 'guest' ? 'wall' : 'guest'
  localStorage.setItem(CLOCK, clockMode.value)
}

export const status = signal<MachineStatus | undefined>(undefined)
export const counters = signal<CountersView | undefined>(undefined)
export const info = signal<Info | undefined>(undefined)
export const warnings = signal<readonly WarningItem[]>([])
export const events = signal<readonly EventItem[]>([])
/** The SMMU that all views show. */
export const smmu = signal(0)

/** Traps a second, two points a second; the server keeps what was before the page. */
export const rates = signal<readonly RatePoint[]>([])
const RATE_POINTS = 2_400
/** Traps a second now. */
export const rate = computed(() => {
  const last = rates.value.at(-1)
  const now = running.value && last?.run === status.value?.run
  return last !== undefined && (now || recording.value !== undefined) ? Math.round(last.rate) : 0
})

/** There is somebody to ask: the server, or what is shown is a recording in this page. */
export const reachable = computed(() => alone || recording.value !== undefined || connection.value === 'open')
/** The state of the machine; undefined while the server does not say. */
export const machineState = computed(() =>
  recording.value !== undefined ? 'off' : reachable.value ? status.value?.state : undefined,
)
export const STATE_WORDS: Readonly<Record<MachineState, string>> = {
  off: 'off',
  preparing: 'preparing',
  starting: 'starting',
  running: 'running',
  paused: 'paused',
  held: 'held at a trap',
  ending: 'ending',
}
/** In one or two words. */
export const stateWord = computed(() => {
  if (recording.value !== undefined) return 'recording'
  const state = machineState.value
  return state === undefined ? (connection.value === 'lost' ? 'no connection' : 'connecting') : STATE_WORDS[state]
})
/** How the last machine ended, when that was not as it should be. */
export const badEnd = computed(() => {
  const end = machineState.value === 'off' ? status.value?.end : undefined
  return end != null && end.outcome !== 'ok' && end.outcome !== 'killed' ? end : undefined
})
effect(() => {
  const end = badEnd.value
  const name = recording.value?.file.name
  document.title = `${name ?? (end === undefined ? stateWord.value : end.outcome)} · smmu-cosim`
})

export const running = computed(() => {
  const state = machineState.value
  return state !== undefined && state !== 'off' && state !== 'preparing'
})
/** The hypervisor's tables can be asked for. */
export const inspectable = computed(() => status.value?.machine != null)
export const held = computed(() => status.value?.held ?? null)

const KEPT = 500

let last: { at: number; traps: number } | undefined

function take({ at, counters: now }: CounterItem): void {
  counters.value = now
  const elapsed = last === undefined ? 0 : (at - last.at) / 1000
  if (last !== undefined && elapsed > 0 && now.traps >= last.traps) {
    const point = { run: status.peek()?.run ?? 0, at, rate: (now.traps - last.traps) / elapsed }
    if (running.peek()) rates.value = [...rates.value, point].slice(-RATE_POINTS)
  }
  last = { at, traps: now.traps }
}

export function startLive(): void {
  followShown()
  const load = () => {
    void call('GET /info').then(
      value => {
        info.value = value
      },
      () => {
        if (!alone) setTimeout(load, 2_000)
      },
    )
  }
  const loadRates = () =>
    void call('GET /machine/rates').then(
      ({ points }) => {
        const from = rates.peek()[0]?.at ?? Number.POSITIVE_INFINITY
        rates.value = [...points.filter(({ at }) => at < from), ...rates.peek()].slice(-RATE_POINTS)
      },
      // The live ones come anyway.
      () => {},
    )
  effect(() => {
    if (locked.value || alone) return
    load()
    loadRates()
    connect()
  })
  let before = recording.peek()
  effect(() => {
    const now = recording.value
    const moved = shown.value !== 'live'
    if (now === undefined && before === undefined) return
    if (now !== before) load()
    before = now
    untracked(() => {
      if (moved)
        void call('GET /machine/rates').then(({ points }) => {
          rates.value = points
        })
      else {
        rates.value = []
        loadRates()
      }
    })
  })
  subscribe(
    'machine',
    {
      items(items) {
        status.value = items.at(-1)?.status
      },
    },
    { last: 1 },
  )
  subscribe(
    'counters',
    {
      items(items) {
        for (const item of items) take(item)
      },
      restarted() {
        last = undefined
        rates.value = []
        loadRates()
      },
    },
    { last: 1, lag: 100 },
  )
  const keep = <T>(list: Signal<readonly T[]>) => ({
    items(items: readonly T[]) {
      list.value = [...list.value, ...items].slice(-KEPT)
    },
    restarted() {
      list.value = []
    },
  })
  subscribe('warnings', keep(warnings), { last: KEPT })
  subscribe('events', keep(events), { last: KEPT })
}
