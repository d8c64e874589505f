// SPDX-License-Identifier: Apache-2.0
import type { ComponentChildren } from 'preact'
import { useLayoutEffect, useRef, useState } from 'preact/hooks'
import type { Queue, QueueEntry } from '../../../api/schemas/smmus.ts'
import { call } from '../api.ts'
import { count, hex } from '../format.ts'
import { useLoaded } from '../hooks.ts'
import { isPending, type Pair, pairs } from '../queuePairs.ts'
import { recording } from '../recorded/open.ts'
import { inspectable, smmu } from '../store.ts'
import { VERDICT_TONES } from '../trapDetail.tsx'
import { Choice, Empty, Load, Panel, Scroll, Tag, type Tone } from '../ui.tsx'
import { NoMachine } from './none.tsx'

export function Queues() {
  const [tab, setTab] = useState<'queues' | 'registers'>('queues')
  if (!inspectable.value) return <NoMachine what="Queues and registers" />
  return (
    <div class="view column">
      <div class="toolbar">
        <Choice
          label="What to show"
          value={tab}
          options={[
            ['queues', 'Queues'],
            ['registers', 'Registers'],
          ]}
          change={setTab}
        />
        <span class="muted">
          {tab === 'queues'
            ? recording.value === undefined
              ? 'Read from memory once a second'
              : 'As the recording shows them at this moment'
            : 'The host’s view and the hardware’s, side by side'}
        </span>
      </div>
      {tab === 'queues' ? <ThreeQueues /> : <Registers />}
    </div>
  )
}

function ThreeQueues() {
  const loaded = useLoaded(() => call('GET /smmus/:smmu/queues', { params: { smmu: smmu.value } }), 1_000, [smmu.value])
  return (
    <Load from={loaded}>
      {({ host, shadow, events }) => (
        <div class="queues">
          <CommandQueues host={host} shadow={shadow} />
          <Panel title="Event queue" flush side={<Enabled queue={events} tone="hw" />}>
            {recording.value === undefined ? (
              <Gauge queue={events} producer="hw" consumer="host" />
            ) : (
              <p class="note muted">As the hardware reported them; where they lie in its queue is not recorded.</p>
            )}
            {events.shown.length === 0 ? (
              <Empty title="Empty">The hardware has recorded no event.</Empty>
            ) : (
              <Following label="Event queue" of={`${events.prod} ${events.prodWrap}`}>
                <table class="data queue">
                  <tbody>
                    {events.shown.map(entry => (
                      <tr key={entry.index} class={isPending(events, entry.index) ? 'pending' : ''}>
                        <td class="num muted">{hex(entry.index)}</td>
                        <Command entry={entry} />
                      </tr>
                    ))}
                  </tbody>
                </table>
              </Following>
            )}
          </Panel>
        </div>
      )}
    </Load>
  )
}

const Enabled = ({ queue, tone, name }: { queue: Queue; tone: Tone; name?: string }) => (
  <Tag tone={queue.enabled ? tone : 'plain'}>
    {name && `${name} `}
    {queue.enabled ? 'enabled' : 'disabled'}
  </Tag>
)

function CommandQueues({ host, shadow }: { host: Queue; shadow: Queue | null }) {
  const rows = pairs(host, shadow)
  return (
    <Panel
      title="Command queues"
      flush
      side={
        <>
          <Enabled queue={host} tone="host" name="host" />
          {shadow ? <Enabled queue={shadow} tone="hyp" name="shadow" /> : <Tag>no shadow</Tag>}
        </>
      }
    >
      <div class="gauges">
        <Gauge queue={host} producer="host" consumer="hyp" name="Host" />
        {shadow ? (
          <Gauge queue={shadow} producer="hyp" consumer="hw" name="Shadow" lastRead={recording.value !== undefined} />
        ) : (
          <p class="hint">There is no shadow: the hardware reads the host's queue itself under this policy.</p>
        )}
      </div>
      {rows.length === 0 ? (
        <Empty title="Empty">The host has given no command yet.</Empty>
      ) : (
        <Following label="Command queues" of={`${host.prod} ${host.prodWrap} ${shadow?.prod}`}>
          <table class="data queue pairs">
            <thead>
              <tr>
                <th class="num host-text">Host</th>
                <th>Command</th>
                {shadow && <th>Verdict</th>}
                {shadow && <th class="num hyp-text">Shadow</th>}
                {shadow && <th>Hardware gets</th>}
              </tr>
            </thead>
            <tbody>
              {rows.map(row => (
                <PairRow
                  key={`${row.host?.index}-${row.shadow?.index}`}
                  row={row}
                  shadowed={shadow !== null}
                  pending={row.host !== undefined && isPending(host, row.host.index)}
                />
              ))}
            </tbody>
          </table>
        </Following>
      )}
    </Panel>
  )
}

function PairRow({ row, shadowed, pending }: { row: Pair; shadowed: boolean; pending: boolean }) {
  const { host, shadow } = row
  const verdict = host?.verdict ?? shadow?.verdict
  const same = host !== undefined && shadow !== undefined && host.words.join() === shadow.words.join()
  return (
    <tr class={pending ? 'pending' : host === undefined ? 'own' : ''}>
      <td class="num muted">{host && hex(host.index)}</td>
      {host ? <Command entry={host} /> : <td />}
      {shadowed && <td>{verdict && <Tag tone={VERDICT_TONES[verdict] ?? 'plain'}>{verdict}</Tag>}</td>}
      {shadowed && <td class="num muted">{shadow && hex(shadow.index)}</td>}
      {shadowed &&
        (shadow === undefined ? (
          <td class="muted">{pending ? 'not yet looked at' : ''}</td>
        ) : same ? (
          <td class="muted">the same</td>
        ) : (
          <Command entry={shadow} />
        ))}
    </tr>
  )
}

/** Its words when pointed at. */
const Command = ({ entry: { name, text, words } }: { entry: QueueEntry }) => (
  <td title={`${text}\n${words.join(' ')}`}>
    <b>{name}</b> <span class="muted">{text.startsWith(name) ? text.slice(name.length).trim() : text}</span>
  </td>
)

/** Scrolls along with what is added, unless somebody has scrolled away from the end. */
function Following({ label, of, children }: { label: string; of: string; children: ComponentChildren }) {
  const box = useRef<HTMLDivElement>(null)
  const away = useRef(false)
  useLayoutEffect(() => {
    if (box.current && !away.current) box.current.scrollTop = box.current.scrollHeight
  }, [of])
  return (
    <Scroll
      label={label}
      class="following"
      ref={box}
      onScroll={({ currentTarget: { scrollTop, clientHeight, scrollHeight } }) => {
        away.current = scrollTop + clientHeight < scrollHeight - 30
      }}
    >
      {children}
    </Scroll>
  )
}

/** The ring of a queue, laid out flat: PROD above, CONS below, in the colours of who writes them. */
function Gauge(props: {
  queue: Queue
  producer: Tone
  consumer: Tone
  name?: string
  /** CONS is as the hypervisor read it last, which may be long ago. */
  lastRead?: boolean
}) {
  const { queue, producer, consumer, name, lastRead = false } = props
  const at = (index: number) => `${(index / queue.entries) * 100}%`
  return (
    <div class="gauge">
      <dl>
        {name && (
          <div class={`${producer}-text`}>
            <dt>Queue</dt>
            <dd>{name}</dd>
          </div>
        )}
        <div class={`${producer}-text`}>
          <dt>PROD</dt>
          <dd>
            {hex(queue.prod)}
            <sup title="wrap bit">{queue.prodWrap}</sup>
          </dd>
        </div>
        <div class={`${consumer}-text`}>
          <dt title={lastRead ? 'as the hypervisor read it last, which may be long ago' : undefined}>
            CONS{lastRead && ', last read'}
          </dt>
          <dd>
            {hex(queue.cons)}
            <sup title="wrap bit">{queue.consWrap}</sup>
          </dd>
        </div>
        {!lastRead && (
          <div title={count(queue.pending)}>
            <dt>Pending</dt>
            <dd>{hex(queue.pending)}</dd>
          </div>
        )}
        <div title={count(queue.entries)}>
          <dt>Entries</dt>
          <dd>{hex(queue.entries)}</dd>
        </div>
        <div>
          <dt>Base</dt>
          <dd>{queue.base}</dd>
        </div>
        {queue.error > 0 && (
          <div class="bad">
            <dt>ERR</dt>
            <dd>{hex(queue.error)}</dd>
          </div>
        )}
      </dl>
      <div class="ring" aria-hidden="true">
        <i class={`prod ${producer}`} style={{ left: at(queue.prod) }} />
        <i class={`cons ${consumer}`} style={{ left: at(queue.cons) }} />
      </div>
    </div>
  )
}

function Registers() {
  const [only, setOnly] = useState(false)
  const loaded = useLoaded(() => call('GET /smmus/:smmu/registers', { params: { smmu: smmu.value } }), 3_000, [
    smmu.value,
  ])
  return (
    <Panel
      title="Registers"
      flush
      class="grow"
      side={
        <label class="check">
          <input type="checkbox" checked={only} onChange={e => setOnly(e.currentTarget.checked)} />
          only those that differ
        </label>
      }
    >
      <Scroll label="Registers">
        <Load from={loaded}>
          {rows => (
            <table class="data">
              <thead>
                <tr>
                  <th>Register</th>
                  <th class="host-text">Host sees</th>
                  <th />
                  <th class="hw-text">Hardware has</th>
                  <th />
                </tr>
              </thead>
              <tbody>
                {rows
                  .filter(row => !only || row.host.value !== row.hardware.value)
                  .map(row => {
                    const differs = row.host.value !== row.hardware.value
                    return (
                      <tr key={row.name} class={differs ? 'differs' : ''}>
                        <th scope="row" title={`${row.offset}: ${row.meaning}`}>
                          {row.name}
                        </th>
                        <td class="mono">{row.host.value ?? '–'}</td>
                        <td class="muted decode">{row.host.text === row.host.value ? '' : row.host.text}</td>
                        <td class="mono">{row.hardware.value ?? '–'}</td>
                        <td class="muted decode">
                          {differs && row.hardware.text !== row.hardware.value ? row.hardware.text : ''}
                        </td>
                      </tr>
                    )
                  })}
              </tbody>
            </table>
          )}
        </Load>
      </Scroll>
    </Panel>
  )
}
