// SPDX-License-Identifier: Apache-2.0
import type { ComponentChildren } from 'preact'
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks'
import { useSize } from './hooks.ts'

const OVERSCAN = 6

/** A list of any length: only the rows in sight are in the page. */
export function VirtualList(props: {
  label: string
  count: number
  rowHeight: number
  row: (index: number) => ComponentChildren
  /** Keep the end in sight. */
  follow: boolean
  unfollow: () => void
  /** Bring this row into sight when it changes. */
  reveal?: number
}) {
  const { ref, height } = useSize<HTMLDivElement>()
  const [top, setTop] = useState(0)
  const placing = useRef(false)
  const { count, rowHeight, follow, reveal } = props

  useLayoutEffect(() => {
    const element = ref.current
    if (!follow || element === null) return
    placing.current = true
    element.scrollTop = element.scrollHeight
    setTop(element.scrollTop)
  }, [count, follow, height])

  useEffect(() => {
    const element = ref.current
    if (element === null || reveal === undefined || reveal < 0) return
    const at = reveal * rowHeight
    if (at < element.scrollTop) element.scrollTop = at
    else if (at + rowHeight > element.scrollTop + element.clientHeight) {
      element.scrollTop = at + rowHeight - element.clientHeight
    }
  }, [reveal, rowHeight, ref])

  const scrolled = () => {
    const element = ref.current
    if (element === null) return
    setTop(element.scrollTop)
    const atEnd = element.scrollTop + element.clientHeight >= element.scrollHeight - rowHeight
    if (!placing.current && !atEnd && follow) props.unfollow()
    placing.current = false
  }

  const first = Math.max(0, Math.floor(top / rowHeight) - OVERSCAN)
  const end = Math.min(count, Math.ceil((top + height) / rowHeight) + OVERSCAN)
  const rows = []
  for (let i = first; i < end; i++) rows.push(props.row(i))
  return (
    <div ref={ref} class="virtual" onScroll={scrolled}>
      <div style={{ height: `${count * rowHeight}px` }}>
        <ul aria-label={props.label} style={{ transform: `translateY(${first * rowHeight}px)` }}>
          {rows}
        </ul>
      </div>
    </div>
  )
}
